// What has happened: events as they come.

import { get } from './api.js';
import { el, mark, table } from './dom.js';
import { moment } from './format.js';
import { live } from './live.js';

const HELD = 500;
const STATES = { info: 'idle', warning: 'warn', error: 'bad' };

export async function events({ signal }) {
  const severity = el('select', { 'aria-label': 'Severity' }, [['', 'everything'], ['warning', 'warnings and errors'], ['error', 'errors']].map(([value, text]) => el('option', { value }, text)));
  const search = el('input', { type: 'search', placeholder: 'kind, object or text', 'aria-label': 'Search events' });
  const place = el('div');
  const told = el('p', { class: 'muted', role: 'status' });
  let held = (await get('events', { limit: HELD }, signal)).events;
  const draw = () => {
    const rank = ['info', 'warning', 'error'];
    const found = held.filter((each) => rank.indexOf(each.severity) >= rank.indexOf(severity.value || 'info') && `${each.kind} ${each.object} ${each.text}`.toLowerCase().includes(search.value.toLowerCase()));
    told.textContent = `${found.length} of ${held.length}`;
    place.replaceChildren(table('Events', [
      { title: 'When', cell: (each) => el('time', null, moment(each.at)) }, { title: 'Severity', cell: (each) => mark(STATES[each.severity] ?? 'unknown', each.severity) }, { title: 'Kind', cell: (each) => each.kind },
      { title: 'Object', cell: (each) => each.object ?? '' }, { title: 'What', cell: (each) => each.text },
    ], [...found].reverse().slice(0, 300), { none: 'Nothing has happened.' }));
  };
  live.addEventListener('event', ({ detail }) => { if (!held.some(({ id }) => id === detail.id)) { held = [...held.slice(1 - HELD), detail]; draw(); } }, { signal });
  [severity, search].forEach((input) => input.addEventListener('input', draw));
  draw();
  return el('section', null, el('h1', null, 'Events'), el('div', { class: 'filter' }, severity, search, told), place);
}
