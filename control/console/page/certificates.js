// Certificates: when they end, who uses them, what is wrong.

import { get, name as escaped } from './api.js';
import { el, link, mark, table } from './dom.js';
import { refreshed } from './nodes.js';
import { store } from './store.js';

const DAY_MS = 86400e3;
const URGENT_DAYS = 7;
const SOON_DAYS = 21;

const days = (each) => (each.ends ? (Date.parse(each.ends) - Date.now()) / DAY_MS : null);
const whole = (left) => { const [number, unit] = left < 2 ? [Math.floor(left * 24), 'hour'] : [Math.floor(left), 'day']; return `${number} ${unit}${number === 1 ? '' : 's'}`; };

function end(each) {
  const left = days(each);
  if (left === null) return '–';
  const state = left < URGENT_DAYS ? 'bad' : left < SOON_DAYS ? 'warn' : 'good';
  return [mark(state, left < 0 ? `expired ${whole(-left)} ago` : `in ${whole(left)}`), el('div', { class: 'muted' }, each.ends.slice(0, 16).replace('T', ' '))];
}

export async function certificates({ signal }) {
  const place = el('div');
  async function look() {
    const { certificates: all } = await get('inventory', null, signal);
    place.replaceChildren(table('Certificates', [
      { title: 'Name', key: (each) => each.name, cell: (each) => link(`#/objects/certificates/${escaped(each.name)}`, each.name) },
      { title: 'Names', cell: (each) => { const names = each.names ?? []; return el('span', { title: names.join(', ') }, names.slice(0, 3).join(', ') + (names.length > 3 ? ` and ${names.length - 3} more` : '')); } },
      { title: 'Issuer', cell: (each) => each.issuer ?? '–' }, { title: 'Ends', key: days, cell: end }, { title: 'Key', cell: (each) => each.key_type ?? '–' },
      { title: 'Used by', cell: (each) => each.used_by.map((name) => el('div', null, link(`#/objects/listeners/${escaped(name)}`, name))) },
      { title: 'What is wrong', cell: (each) => { const told = [[each.warning, days(each) < URGENT_DAYS ? 'bad' : 'warn'], ...each.problems.map((text) => [text, 'bad'])].filter(([text]) => text); return told.length ? told.map(([text, state]) => el('div', null, mark(state, text))) : mark('good', 'nothing'); } },
      { title: 'Issuance', cell: (each) => each.issuance?.text ?? '–' },
    ], all, { none: 'There are no certificates.', sorted: 4 }));
  }
  store.addEventListener('changed', () => look().catch(() => {}), { signal });
  await refreshed(look, signal, [], 60000);
  return el('section', null, el('h1', null, 'Certificates'), el('p', { class: 'lead' }, 'Those that end first are at the top. Keys are the key server’s alone and never come here.'), place);
}
