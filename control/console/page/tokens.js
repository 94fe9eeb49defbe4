// API tokens: who has one, a new one, taking one back.

import { ask, get } from './api.js';
import { asking, confirm, secret } from './dialog.js';
import { button, el, mark, say, table } from './dom.js';
import { moment } from './format.js';
import * as session from './session.js';

export async function tokens({ signal }) {
  const place = el('div');
  const wrong = el('p', { class: 'fault', role: 'alert' });
  async function draw() {
    const { tokens: all } = await get('tokens', null, signal);
    const now = Date.now() / 1000;
    place.replaceChildren(table('Tokens', [
      { title: 'Name', key: (each) => each.name, cell: (each) => [each.name, each.id === session.who().id ? el('span', { class: 'tag' }, 'yours') : null] }, { title: 'ID', cell: (each) => el('code', null, each.id) }, { title: 'Role', key: (each) => each.role, cell: (each) => each.role },
      { title: 'Created', key: (each) => each.created, cell: (each) => `${moment(each.created)} by ${each.creator}` }, { title: 'Ends', key: (each) => each.expires, cell: (each) => (each.expires ? (each.expires < now ? mark('bad', 'expired') : moment(each.expires)) : 'never') },
      { title: 'Last used', key: (each) => each.used, cell: (each) => (each.used ? `${moment(each.used)} from ${each.used_from}` : 'never') },
      { title: '', cell: (each) => button('Revoke', () => revoke(each), { kind: 'small', 'aria-label': `Revoke ${each.name}` }) },
    ], all));
  }
  async function revoke(each) {
    if (!await confirm(`Revoke ${each.name}`, `The token ${each.name} (${each.id}) is void at once, on every control node.`, 'Revoke', { danger: true })) return;
    try { await ask('DELETE', `tokens/${each.id}`); say('revoked'); await draw(); } catch (error) { wrong.textContent = error.message; }
  }
  async function create() {
    const made = await asking('New token', 'It can have no higher role and no later end than yours.', [
      ['name', 'Name', el('input', { type: 'text', required: true, spellcheck: 'false' })], ['role', 'Role', el('select', null, ['read', 'operate', 'admin'].map((each) => el('option', { value: each }, each)))],
      ['days', 'Good for, in days', el('input', { type: 'number', min: '0', value: '90' }), '0: with yours, if ever'],
    ], 'Create', ({ name, role, days }) => ask('POST', 'tokens', { body: { name, role, expires: Number(days) ? Math.floor(Date.now() / 1000 + Number(days) * 86400) : 0 } }));
    if (!made) return;
    await secret('The token', 'It is not shown again.', made.secret, 'Token');
    await draw();
  }
  await draw();
  return el('section', null, el('div', { class: 'heading' }, el('h1', null, 'Tokens'), button('Create a token', create, { kind: 'primary' })), wrong, place);
}
