// The frame around every view: sign-in, navigation, what has the focus, the state of the stream, the theme.
//
// A view is `async ({params, query, signal}) → node`; the signal is aborted when another one takes its place.

import { ask, get } from './api.js';
import * as changeset from './changeset.js';
import { button, el, link, say, svg } from './dom.js';
import { many, title } from './format.js';
import * as live from './live.js';
import * as session from './session.js';
import { forget, KINDS } from './store.js';
import { certificates } from './certificates.js';
import { audit, history, version } from './history.js';
import { metering } from './metering.js';
import { nodes } from './nodes.js';
import { objectPage, objects } from './objects.js';
import { changesPage } from './changes_page.js';
import { talkers } from './talkers.js';
import { tokens } from './tokens.js';
import { overview } from './overview.js';
import { charts } from './charts.js';
import { events } from './events.js';

const VIEWS = [
  ['', overview, 'Overview'], ['charts', charts, 'Charts'], ['events', events, 'Events'], ['talkers', talkers, 'Top talkers', 'operate'],
  ['objects/:kind', objects], ['objects/:kind/:name', objectPage],
  ['nodes', nodes, 'Node status'], ['certificates', certificates, 'Certificate status'],
  ['history', history, 'History'], ['history/:version', version], ['audit', audit, 'Audit log', 'admin'],
  ['metering', metering, 'Metering'], ['tokens', tokens, 'Tokens', 'admin'], ['changes', changesPage],
];
const NAVIGATION = [['Watch', ['', 'charts', 'events', 'talkers']], ['Configure', KINDS.map((kind) => `objects/${kind}`)], ['Run', ['nodes', 'certificates', 'history', 'audit', 'metering', 'tokens']]];

const app = document.getElementById('app');
let leaving = new AbortController();
let main = null;

function theme() {
  const wanted = localStorage.getItem('paifang-theme') ?? 'auto';
  document.documentElement.dataset.theme = wanted;
  return wanted;
}

function found(path) {
  const given = path.split('/').filter(Boolean);
  for (const [pattern, view] of VIEWS) {
    const wanted = pattern.split('/').filter(Boolean);
    if (wanted.length !== given.length) continue;
    if (wanted.every((each, at) => each.startsWith(':') || each === given[at])) {
      try {
        return { view, params: Object.fromEntries(wanted.map((each, at) => [each.slice(1), decodeURIComponent(given[at])]).filter((_, at) => wanted[at].startsWith(':'))) };
      } catch { return null; } // '%' with anything behind it
    }
  }
  return null;
}

async function show({ focus = true } = {}) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [path, asked] = location.hash.replace(/^#\/?/, '').split('?');
  const wanted = found(path);
  document.querySelectorAll('nav a').forEach((each) => {
    const own = each.hash.replace(/^#\/?/, '');
    if (own === path || (own && path.startsWith(`${own}/`))) each.setAttribute('aria-current', 'page');
    else each.removeAttribute('aria-current');
  });
  document.body.classList.remove('navigating');
  document.querySelector('.menu')?.setAttribute('aria-expanded', 'false');
  main.setAttribute('aria-busy', 'true');
  let node;
  try {
    node = wanted ? await wanted.view({ params: wanted.params, query: new URLSearchParams(asked), signal }) : el('section', null, el('h1', null, 'There is no such page'), link('#/', 'To the overview'));
  } catch (error) {
    if (signal.aborted || !session.token()) return;
    if (!error.status && error.status !== 0) console.error(error);
    node = el('section', null, el('h1', null, error.status === 404 ? 'It is not there' : 'This cannot be shown'), el('p', { class: 'faults' }, error.message), button('Try again', () => show()));
  }
  if (signal.aborted) return;
  main.replaceChildren(node);
  main.removeAttribute('aria-busy');
  const head = node.querySelector('h1');
  document.title = `${head?.textContent ?? 'Console'} – Paifang`;
  if (focus && head) {
    head.tabIndex = -1;
    head.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

const text = (path) => (path.startsWith('objects/') ? title(many(path.slice(8))) : VIEWS.find(([each]) => each === path)[2]);
const permitted = (path) => { const role = VIEWS.find(([each]) => each === path)?.[3]; return !role || session.may(role); };

function frame() {
  const state = el('span', { class: 'stream', role: 'status' });
  const drawState = () => {
    state.className = `stream ${live.live.state}`;
    state.textContent = { live: 'live', connecting: 'connecting…', lost: `disconnected: ${live.live.why}` }[live.live.state];
  };
  const set = link('#/changes', '');
  const drawSet = () => {
    const number = changeset.pending().length;
    set.textContent = number ? `Change set (${number})` : '';
    set.className = number ? 'button small primary' : 'unseen';
    set.hidden = !number;
  };
  const choose = el('select', { 'aria-label': 'Colours', class: 'theme', on: { change: () => { localStorage.setItem('paifang-theme', choose.value); theme(); } } }, [['auto', 'Auto'], ['light', 'Light'], ['dark', 'Dark']].map(([value, label]) => el('option', { value }, label)));
  choose.value = theme();
  live.live.addEventListener('state', () => { drawState(); if (live.live.state === 'lost') say('disconnected', { urgent: true }); }, { signal: framed.signal });
  changeset.changeset.addEventListener('changed', drawSet, { signal: framed.signal });
  drawState();
  drawSet();
  const menu = el('button', { type: 'button', class: 'menu button small', 'aria-expanded': 'false', 'aria-controls': 'navigation', on: { click: () => menu.setAttribute('aria-expanded', String(document.body.classList.toggle('navigating'))) } }, 'Menu');
  const who = session.who();
  main = el('main', { id: 'main' });
  app.replaceChildren(
    button('Skip to the content', () => main.querySelector('h1')?.focus(), { kind: 'skip' }),
    el('header', null, menu, link('#/', el('span', { class: 'brand' }, svg('svg', { viewBox: '0 0 32 32', 'aria-hidden': 'true' }, svg('path', { d: 'M5 10c5 2 17 2 22 0M7 15.5h18M10 11v15M22 11v15M16 11.5v4' })), 'Paifang')), state, el('span', { class: 'gap' }), set, choose,
      el('span', { class: 'who' }, who.name, el('span', { class: 'tag' }, who.role)), button('Sign out', () => session.end('You have signed out.'), { kind: 'small' })),
    el('nav', { id: 'navigation', 'aria-label': 'Pages' }, NAVIGATION.map(([heading, paths]) => el('div', null, el('h2', null, heading), el('ul', null, paths.filter(permitted).map((path) => el('li', null, link(`#/${path}`, text(path)))))))),
    main);
}

let framed = new AbortController();

function signIn() {
  framed.abort();
  leaving.abort();
  live.end();
  forget();
  document.querySelectorAll('dialog').forEach((each) => each.remove());
  document.title = 'Sign in – Paifang';
  const wrong = el('p', { class: 'fault', id: 'wrong', role: 'alert' }, session.ended());
  const input = el('input', { type: 'password', id: 'token', name: 'token', autocomplete: 'current-password', spellcheck: 'false', required: true, 'aria-describedby': 'wrong about' });
  const submit = el('button', { class: 'button primary', type: 'submit' }, 'Sign in');
  const form = el('form', { on: { submit: async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      await enter(input.value.trim());
    } catch (error) {
      wrong.textContent = error.message;
      submit.disabled = false;
      input.focus();
      input.select();
    }
  } } }, el('h1', null, 'Paifang'), el('label', { for: 'token' }, 'API token'), input, wrong, submit,
  el('p', { class: 'hint', id: 'about' }, 'It is kept in this tab until you sign out or close it. The first one stands in ', el('code', null, 'STATE/token'), ' on the control plane’s machine; ', el('code', null, 'paifang token create'), ' makes others.'));
  app.replaceChildren(el('main', { class: 'signin' }, form));
  input.focus();
}

async function enter(secret) {
  if (!/^[\x21-\x7e]+$/.test(secret)) throw new Error('this is no token');
  session.begin(secret, await ask('GET', 'token', { token: secret }));
}

async function start() {
  theme();
  session.changes.addEventListener('begun', () => { framed = new AbortController(); frame(); live.begin(); show(); });
  session.changes.addEventListener('ended', signIn);
  addEventListener('hashchange', () => { if (session.who()) show(); });
  if (!session.token()) return signIn();
  try {
    session.begin(session.token(), await get('token'));
  } catch (error) {
    if (session.token()) session.end(error.message);
  }
}

start();
