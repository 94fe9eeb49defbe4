// Nodes: what each runs and why not, draining, and how machines join and are refused.

import { ask, get, name as escaped } from './api.js';
import { asking, confirm, secret } from './dialog.js';
import { button, el, link, mark, say, table } from './dom.js';
import { duration, moment } from './format.js';
import { live } from './live.js';
import * as session from './session.js';
import { store } from './store.js';

const STEPS = { 'in step': 'good', lagging: 'warn', silent: 'bad' };
const AGAIN_MS = 5000;

// Do `look` now, when any of these events comes, and now and then, until `signal`. Errors stay on the page.
export async function refreshed(look, signal, events = [], everyMs = AGAIN_MS) {
  let busy = false;
  const safely = async () => {
    if (busy || signal.aborted) return;
    busy = true;
    try { await look(); } catch (error) { if (error.name !== 'AbortError' && !error.status && error.status !== 0) console.error(error); } finally { busy = false; }
  };
  for (const event of events) live.addEventListener(event, safely, { signal });
  const timer = setInterval(() => { if (!document.hidden) safely(); }, everyMs);
  signal.addEventListener('abort', () => clearInterval(timer), { once: true });
  await look();
}

export async function nodes({ signal }) {
  const warnings = el('div');
  const place = el('div');
  const joined = el('div');
  const wrong = el('p', { class: 'fault', role: 'alert' });
  let shown = '';
  const attempt = async (act, told) => { wrong.textContent = ''; try { await act(); say(told); shown = ''; await look(); } catch (error) { wrong.textContent = error.message; } };
  const drain = async (node) => { if (await confirm(`Drain ${node.name}`, node.role === 'l4' ? 'It gives its VIPs up; its sessions are known to its peers.' : 'It takes nothing new and goes on with what it has.', 'Drain')) attempt(() => ask('PUT', `drains/${escaped(node.name)}`), `${node.name} drains`); };
  const revoke = async ({ role, name }) => { if (await confirm(`Revoke ${name}`, `The ${role} node ${name} is refused from now on, by the control plane, other nodes and key servers. It comes back by a new invitation only.`, 'Revoke', { danger: true })) attempt(() => ask('POST', `members/${role}/${escaped(name)}/revoke`), `${name} is revoked`); };
  const invite = async () => {
    const role = el('select', null, ['l7', 'l4', 'keyserver', 'control'].map((each) => el('option', { value: each }, each)));
    const made = await asking('Invite a machine to join', null, [['role', 'Role', role], ['name', 'Name', el('input', { type: 'text', required: true, spellcheck: 'false' }), 'or a pattern such as l7-*, in which the machine chooses'], ['ttl', 'Good for, in minutes', el('input', { type: 'number', value: '60', min: '1' })]], 'Invite',
      ({ role: wanted, name, ttl }) => ask('POST', 'joins', { body: { role: wanted, name, ttl_s: Number(ttl) * 60 } }));
    if (!made) return;
    const line = `paifang join ${made.nodes_address ? `https://${made.nodes_address}` : 'https://CONTROL:8471'} --token ${made.token} --ca-fingerprint ${made.ca_fingerprint} ${made.name.includes('*') ? '--name NAME --out /etc/paifang/NAME' : `--out /etc/paifang/${made.name}`}`;
    await secret('The invitation', `Run this on the new machine. The token is good once, until ${moment(made.expires)}, and is not shown again.`, line, 'Command to join');
    shown = '';
    look();
  };
  async function look() {
    const admin = session.may('admin');
    const [status, { drains }, { members }, { joins }] = await Promise.all([get('status', null, signal), get('drains', null, signal), get('members', null, signal), admin ? get('joins', null, signal) : { joins: [] }]);
    const text = JSON.stringify([status.nodes.map(({ facts: { problems, version }, age_s, ...rest }) => [rest, problems, version, Math.round((age_s ?? 0) / 5)]), status.warnings, drains, members, joins]);
    if (text === shown || (place.contains(document.activeElement) && shown && document.activeElement.tagName === 'BUTTON' && text.length === shown.length)) return;
    const held = place.contains(document.activeElement) ? document.activeElement.getAttribute('aria-label') : null;
    shown = text;
    const draining = new Set(drains.map((each) => `${each.role}/${each.name}`));
    warnings.replaceChildren(status.warnings.length ? el('ul', { class: 'notice warnings' }, status.warnings.map((each) => el('li', null, mark('warn', each)))) : '');
    place.replaceChildren(table('Nodes', [
      { title: 'Node', key: (node) => node.name, cell: (node) => (node.listed ? link(`#/objects/nodes/${escaped(node.name)}`, node.name) : node.name) }, { title: 'Role', key: (node) => node.role, cell: (node) => node.role },
      { title: 'State', key: (node) => node.step, cell: (node) => [mark(STEPS[node.step] ?? 'unknown', node.step), draining.has(`${node.role}/${node.name}`) ? mark('idle', 'draining') : null, node.member ? mark('bad', node.member) : null] },
      { title: 'Why', cell: (node) => [node.why, ...(node.facts.problems ?? [])].filter(Boolean).map((each) => el('div', null, each)) },
      { title: 'Version', number: true, key: (node) => node.version ?? -1, cell: (node) => `${node.version ?? '–'} of ${status.version}` },
      { title: 'Software', cell: (node) => node.facts.software ?? node.facts.version ?? '–' },
      { title: 'Report', number: true, cell: (node) => (node.age_s === null ? 'none' : `${duration(node.age_s)} ago`) },
      { title: '', cell: (node) => el('span', { class: 'pair' }, !session.may('operate') || !['l4', 'l7'].includes(node.role) ? null : draining.has(`${node.role}/${node.name}`) ? button('Undrain', () => attempt(() => ask('DELETE', `drains/${escaped(node.name)}`), `${node.name} serves again`), { kind: 'small', 'aria-label': `Undrain ${node.name}` }) : button('Drain', () => drain(node), { kind: 'small', 'aria-label': `Drain ${node.name}` }),
        admin && node.member !== 'revoked' ? button('Revoke', () => revoke(node), { kind: 'small', 'aria-label': `Revoke ${node.name}` }) : null) },
    ], status.nodes, { none: 'No node is listed, and none reports.' }));
    joined.replaceChildren(el('h2', null, 'Identities'), table('Identities', [
      { title: 'Node', key: (each) => each.name, cell: (each) => each.name }, { title: 'Role', cell: (each) => each.role }, { title: 'State', cell: (each) => mark({ member: 'good', revoked: 'bad', expired: 'bad' }[each.state], each.state) },
      { title: 'Valid until', key: (each) => each.ends, cell: (each) => (each.ends ? moment(each.ends) : '–') }, { title: 'Joined', cell: (each) => moment(each.joined) },
      // Also of those that have never reported, and of roles that do not report.
      ...(admin ? [{ title: '', cell: (each) => (each.state === 'revoked' ? '' : button('Revoke', () => revoke(each), { kind: 'small', 'aria-label': `Revoke the identity of ${each.name}` })) }] : []),
    ], members, { none: 'No machine has joined by an invitation.' }),
    ...(admin ? [el('h2', null, 'Invitations'), table('Invitations', [
      { title: 'Name', cell: (each) => each.name }, { title: 'Role', cell: (each) => each.role }, { title: 'State', cell: (each) => mark({ open: 'warn', used: 'good', expired: 'idle' }[each.state], each.state) },
      { title: 'Ends', cell: (each) => moment(each.expires) }, { title: 'By', cell: (each) => each.by },
      { title: '', cell: (each) => (each.state === 'open' ? button('Take back', () => attempt(() => ask('DELETE', `joins/${each.id}`), 'taken back'), { kind: 'small', 'aria-label': `Take back ${each.name}` }) : '') },
    ], joins)] : []));
    if (held) place.querySelector(`[aria-label="${CSS.escape(held)}"]`)?.focus();
  }
  store.addEventListener('changed', () => look().catch(() => {}), { signal });
  await refreshed(look, signal, ['node']);
  return el('section', null, el('div', { class: 'heading' }, el('h1', null, 'Nodes'), session.may('admin') ? button('Invite a machine', invite, { kind: 'primary' }) : null), warnings, wrong, place, joined);
}

