// Who sends most just now: clients, flows or servers, by tier. Nodes count only while somebody asks, so the page asks
// until they know something, and again when it is told to.

import { get } from './api.js';
import { button, el, mark, table } from './dom.js';
import { bits, count, perS, title, words } from './format.js';

const LIMIT = 50;
const AGAIN_MS = 1500;
const shown = (name, value) => (value === null || value === undefined ? '–' : typeof value !== 'number' ? String(value) : name.startsWith('bytes_') ? bits(value) : name.endsWith('_per_s') ? perS(value) : count(value));
const heading = (name) => title(words(name.replace(/^bytes_/, '').replace(/_per_s$/, '')));

export async function talkers({ signal }) {
  const tier = el('select', null, ['l7', 'l4'].map((each) => el('option', { value: each }, each)));
  const by = el('select', null);
  const place = el('div');
  const wrong = el('p', { class: 'fault', role: 'alert' });
  const told = el('p', { class: 'muted', role: 'status' });
  let timer;
  let asked = 0; // an answer that comes late is not to take the place of a later question's
  const choices = () => by.replaceChildren(...['client', 'server', ...(tier.value === 'l4' ? ['flow'] : [])].map((each) => el('option', { value: each }, each)));
  async function look() {
    clearTimeout(timer);
    wrong.textContent = '';
    const mine = ++asked;
    try {
      const answer = await get('talkers', { tier: tier.value, by: by.value, limit: LIMIT }, signal);
      if (mine !== asked) return;
      const names = [...new Set(answer.talkers.flatMap(Object.keys))];
      told.textContent = !answer.nodes ? `No ${tier.value} node is there.` : !answer.ready ? 'The nodes have begun to count…' : `${answer.nodes} node${answer.nodes === 1 ? '' : 's'}, in ${Number(answer.window_s.toFixed(1))} s${answer.share > 1 ? `; one session in ${answer.share} is looked at` : ''}`;
      const silent = Object.entries(answer.silent ?? {});
      place.replaceChildren(
        table('Top talkers', (names.length ? names : [by.value]).map((name) => ({ title: heading(name), number: answer.talkers.some((row) => typeof row[name] === 'number'), key: (row) => row[name], cell: (row) => shown(name, row[name]) })), answer.talkers, { none: answer.ready ? 'Nobody has sent anything.' : 'Nothing is known yet.' }),
        ...(silent.length ? [el('ul', null, silent.map(([node, why]) => el('li', null, mark('warn', `${node} did not answer: ${why}`))))] : []),
        ...(answer.sessions?.length ? [el('h2', null, 'Sessions'), table('Sessions', [{ title: 'Listener', key: (row) => row.listener, cell: (row) => row.listener }, { title: 'State', key: (row) => row.state, cell: (row) => row.state }, { title: 'Sessions', number: true, key: (row) => row.sessions, cell: (row) => count(row.sessions) }], answer.sessions)] : []));
      if (!answer.ready && answer.nodes) timer = setTimeout(look, AGAIN_MS);
    } catch (error) { if (error.name !== 'AbortError' && mine === asked) wrong.textContent = error.message; }
  }
  signal.addEventListener('abort', () => clearTimeout(timer), { once: true });
  tier.addEventListener('change', () => { choices(); look(); });
  by.addEventListener('change', look);
  choices();
  await look();
  return el('section', null, el('h1', null, 'Top talkers'), el('p', { class: 'lead' }, 'Who sends most just now. Clients’ addresses are personal data: this needs the role operate.'), el('div', { class: 'filter' }, el('label', null, 'Tier ', tier), el('label', null, 'by ', by), button('Ask again', look), told), wrong, place);
}
