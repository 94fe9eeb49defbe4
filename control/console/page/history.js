// Versions with what they changed, the way back to one of them, and the audit log.

import { ask, get } from './api.js';
import { dialog } from './dialog.js';
import { diff, summary } from './diff.js';
import { button, el, link, mark, say, table } from './dom.js';
import { ago, moment } from './format.js';
import * as session from './session.js';
import { after, configuration, store } from './store.js';

const PAGE = 30;

export async function history({ signal }) {
  const place = el('div');
  let before;
  const later = button('Older', () => draw(), { hidden: true });
  const rows = [];
  async function draw() {
    const { versions } = await get('versions', { limit: PAGE, before, changes: 1 }, signal);
    rows.push(...versions);
    before = versions.at(-1)?.version;
    later.hidden = versions.length < PAGE;
    place.replaceChildren(table('Versions', [
      { title: 'Version', number: true, cell: (each) => link(`#/history/${each.version}`, String(each.version)) },
      { title: 'When', cell: (each) => el('time', { title: ago(each.created) }, moment(each.created)) },
      { title: 'Who', cell: (each) => each.author }, { title: 'Comment', cell: (each) => each.comment },
      { title: 'What', cell: (each) => (each.changes ? `${summary(each.changes)}: ${each.changes.slice(0, 3).map(({ kind, name }) => `${kind}/${name}`).join(', ')}${each.changes.length > 3 ? ' …' : ''}` : 'the one before is forgotten') },
    ], rows));
  }
  store.addEventListener('changed', () => { rows.length = 0; before = undefined; draw(); }, { signal });
  await draw();
  return el('section', null, el('h1', null, 'History'), place, later);
}

export async function version({ params, signal }) {
  const number = Number(params.version);
  if (!/^[1-9]\d{0,15}$/.test(params.version)) throw Object.assign(new Error(`there is no version ${params.version}`), { status: 404 });
  const [one, { version: current }] = await Promise.all([get(`versions/${number}`, null, signal), configuration()]);
  const back = await get('diff', { from: current, to: number }, signal);
  const wrong = el('p', { class: 'fault', role: 'alert' });
  const roll = async () => {
    wrong.textContent = '';
    try {
      const plan = await ask('POST', 'rollback', { query: { dry_run: 1 }, body: { version: number } });
      const yes = await dialog(`Back to version ${number}`, (close) => [el('p', null, `This makes version ${current + 1} with the content of version ${number}.`), el('div', { class: 'planned', tabindex: '0', role: 'region', 'aria-label': 'What changes' }, diff(plan.changes)),
        el('div', { class: 'actions' }, button('Roll back', () => close(true), { kind: 'primary' }), button('Cancel', () => close(null), { 'data-first': true }))], { wide: true });
      if (!yes) return;
      const done = await ask('POST', 'rollback', { body: { version: number }, headers: { 'If-Match': `"${current}"` } });
      after(done, session.who().name);
      say(`rolled back, as version ${done.version}`);
      location.hash = `#/history/${done.version}`;
    } catch (error) { wrong.textContent = error.message; }
  };
  return el('section', null,
    el('div', { class: 'heading' }, el('h1', null, `Version ${number}`), number !== current && session.may('admin') ? button('Roll back to it', roll, { kind: 'primary' }) : null), wrong,
    el('p', { class: 'lead' }, `${moment(one.created)} by ${one.author}${one.comment ? ` – ${one.comment}` : ''}${number === current ? ' (current)' : ''}`),
    el('h2', null, 'What it changed'), one.changes ? diff(one.changes, { links: true }) : el('p', { class: 'muted' }, 'The version before is forgotten.'),
    number === current ? null : [el('h2', null, 'What going back would change now'), diff(back.changes)]);
}

export async function audit({ signal }) {
  const filters = { who: 'Who', object: 'Object', path: 'Path', from: 'From' };
  const inputs = Object.entries(filters).map(([name, label]) => el('input', { type: 'search', name, placeholder: label, 'aria-label': label }));
  const result = el('select', { name: 'result', 'aria-label': 'Result' }, ['', 'done', 'refused', 'failed'].map((each) => el('option', { value: each }, each || 'any result')));
  const place = el('div');
  let rows = [];
  let next;
  const wrong = el('p', { class: 'fault', role: 'alert' });
  const later = button('Older', () => draw(), { hidden: true });
  async function draw() {
    wrong.textContent = '';
    try {
      const page = await get('audit', { limit: 50, before: next, ...Object.fromEntries([...inputs, result].map(({ name, value }) => [name, value])) }, signal);
      rows.push(...page.entries);
      next = page.next;
      later.hidden = !next;
    } catch (error) { if (error.name !== 'AbortError') wrong.textContent = error.message; return; }
    place.replaceChildren(table('Audit log', [
      { title: 'No', number: true, cell: (each) => String(each.number) }, { title: 'When', cell: (each) => moment(each.at) }, { title: 'Who', cell: (each) => `${each.who} (${each.role || 'nobody'})` }, { title: 'From', cell: (each) => each.from },
      { title: 'What', cell: (each) => el('code', null, `${each.method} ${each.path}`) }, { title: 'Result', cell: (each) => mark({ done: 'good', refused: 'warn', failed: 'bad' }[each.result], `${each.result} (${each.status})`) },
      { title: 'Remarks', cell: (each) => [each.version ? `version ${each.version}` : '', each.comment, each.why, ...(each.objects ?? [])].filter(Boolean).join('; ') },
    ], rows));
  }
  const again = () => { rows = []; next = undefined; draw(); };
  [...inputs, result].forEach((input) => input.addEventListener('change', again));
  await draw();
  return el('section', null, el('h1', null, 'Audit log'), el('div', { class: 'filter' }, inputs, result), wrong, place, later);
}
