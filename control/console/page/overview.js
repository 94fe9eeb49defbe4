// The cluster as a picture, with what passes in a second; numbers, what is wrong, what has happened.

import { get, name as escaped } from './api.js';
import { button, el, link, mark, svg, table } from './dom.js';
import { bits, count, endpoint, moment, one, perS, whole } from './format.js';
import { placed } from './map_layout.js';
import { refreshed } from './nodes.js';

const WIDTH = 1180;
const SHAPES = { good: 'M0 5l4 4 7-8', bad: 'M1 1l9 9M10 1l-9 9', warn: 'M5.5 0v6M5.5 10v.2', idle: 'M0 5h11', unknown: 'M2 3a3.4 3.4 0 1 1 5 3c-1.2.6-1.5 1-1.5 2M5.5 10.5v.2' };
const HEADS = { clients: 'Clients', vip: 'VIPs', l4: 'L4 nodes', l7: 'L7 nodes', group: 'Groups', server: 'Servers' };
const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function picture({ boxes, flows, columns, height }) {
  const flow = (each) => svg('path', { class: each.width ? 'flow' : 'still', d: each.path, 'stroke-width': each.width || 1.5 }, svg('title', null, each.text));
  const box = (each) => svg('a', { href: each.href, class: each.state, 'aria-label': each.label },
    svg('title', null, each.label),
    svg('rect', { x: each.x, y: each.y, width: each.width, height: each.height, rx: 5 }),
    svg('path', { class: 'shape', d: SHAPES[each.state], transform: `translate(${each.x + 8} ${each.y + 9})` }),
    svg('text', { x: each.x + 27, y: each.y + 18 }, short(each.name, 21)),
    each.below ? svg('text', { class: 'soft', x: each.x + 27, y: each.y + 33 }, short(each.below, 25)) : null);
  return svg('svg', { viewBox: `0 0 ${WIDTH} ${height}`, role: 'group', 'aria-label': 'Topology: what leads where; the table below says the same in words' },
    columns.map((each) => svg('text', { class: 'column', x: each.x, y: 18 }, HEADS[each.kind])),
    svg('g', { 'aria-hidden': 'true' }, flows.map(flow)), boxes.map(box));
}

const tile = (label, value, href) => el('div', { class: 'tile' }, el('dt', null, href ? link(href, label) : label), el('dd', null, value));

function tiles(seen, status) {
  const { clients } = seen;
  const servers = seen.groups.flatMap((group) => group.servers);
  const down = servers.filter((server) => server.state === 'down').length;
  const bad = status.nodes.filter((node) => node.step !== 'in step').length;
  const errors = seen.listeners.reduce((sum, { rates }) => (rates.errors_per_s === null || rates.errors_per_s === undefined ? sum : (sum ?? 0) + rates.errors_per_s), null);
  return el('dl', { class: 'tiles' },
    tile('Requests', perS(clients.requests_per_s), '#/charts'), tile('In', bits(clients.bytes_in_per_s)), tile('Out', bits(clients.bytes_out_per_s)), tile('New connections', perS(clients.connections_per_s)), tile('Open connections', count(clients.connections)), tile('Errors', perS(errors)),
    tile('Nodes in step', `${status.nodes.length - bad} of ${status.nodes.length}`, '#/nodes'), tile('Servers down', whole(down)));
}

const state = ({ state: each, why, down_on: on }) => mark({ up: 'good', down: 'bad', draining: 'idle' }[each] ?? 'unknown', each === 'down' && on?.length ? `down on ${on.join(', ')}` : each, why);

function groupTable(seen) {
  const rows = seen.groups.flatMap((group) => group.servers.map((server) => ({ group, server })));
  const rank = { down: 0, draining: 1, unknown: 2, up: 3 };
  rows.sort((a, b) => rank[a.server.state] - rank[b.server.state]);
  return [table('Servers', [
    { title: 'Server', key: ({ server }) => endpoint(server), cell: ({ server }) => endpoint(server) },
    { title: 'Group', key: ({ group }) => group.name, cell: ({ group }) => link(`#/objects/${group.kind}/${escaped(group.name)}`, group.name) },
    { title: 'State', key: ({ server }) => rank[server.state], cell: ({ server }) => state(server) }, { title: 'Why', cell: ({ server }) => server.why ?? '' },
    { title: 'Weight', number: true, key: ({ server }) => server.weight, cell: ({ server }) => String(server.weight) },
    { title: 'Requests', number: true, key: ({ server }) => server.rates?.requests_per_s, cell: ({ server }) => perS(server.rates?.requests_per_s) },
    { title: 'Connections', number: true, key: ({ server }) => server.rates?.connections, cell: ({ server }) => count(server.rates?.connections) },
  ], rows.slice(0, 100), { none: 'No group has servers.' }), rows.length > 100 ? el('p', { class: 'muted' }, `100 of ${rows.length} are shown, those that are down first`) : ''];
}

const listenerTable = (seen) => table('Listeners', [
  { title: 'Listener', key: (each) => each.name, cell: (each) => link(`#/objects/listeners/${escaped(each.name)}`, each.name) }, { title: 'Protocol', cell: (each) => `${each.protocol}:${each.port}` },
  { title: 'Leads to', cell: (each) => each.groups.map(({ kind, name }) => el('div', null, link(`#/objects/${kind}/${escaped(name)}`, name))) },
  { title: 'Requests', number: true, key: (each) => each.rates.requests_per_s, cell: (each) => perS(each.rates.requests_per_s) }, { title: 'In', number: true, key: (each) => each.rates.bytes_in_per_s, cell: (each) => bits(each.rates.bytes_in_per_s) }, { title: 'Out', number: true, key: (each) => each.rates.bytes_out_per_s, cell: (each) => bits(each.rates.bytes_out_per_s) },
  { title: 'Errors', number: true, key: (each) => each.rates.errors_per_s, cell: (each) => perS(each.rates.errors_per_s) },
], seen.listeners, { none: 'There are no listeners yet.' });

export async function overview({ signal }) {
  const numbers = el('div');
  const map = el('div', { class: 'map', tabindex: '0', role: 'region', 'aria-label': 'Topology' });
  const warnings = el('div');
  const lists = el('div');
  const news = el('div');
  const open = new Set();
  const chosen = el('select', { 'aria-label': 'Instance' }, el('option', { value: '' }, 'all instances'));
  let seen;
  const draw = () => {
    const held = map.contains(document.activeElement) ? document.activeElement.getAttribute('aria-label') : null;
    const laid = placed(seen, { width: WIDTH, open });
    map.replaceChildren(picture(laid));
    if (held) map.querySelector(`[aria-label="${CSS.escape(held)}"]`)?.focus();
    unfold.replaceChildren(...laid.folded.map(({ kind, left }) => button(`Show ${left} more ${HEADS[kind].toLowerCase()}`, () => { open.add(kind); draw(); }, { kind: 'small' })), open.size ? button('Fold', () => { open.clear(); draw(); }, { kind: 'small' }) : '');
  };
  const unfold = el('div', { class: 'filter' });
  async function look() {
    const [topology, status, { events }] = await Promise.all([get('topology', { instance: chosen.value }, signal), get('status', null, signal), get('events', { limit: 6 }, signal)]);
    seen = topology;
    if (!chosen.value && chosen.options.length !== seen.instances.length + 1) chosen.replaceChildren(el('option', { value: '' }, 'all instances'), ...seen.instances.map(({ name }) => el('option', { value: name }, name)));
    numbers.replaceChildren(tiles(seen, status));
    warnings.replaceChildren(status.warnings.length ? el('ul', { class: 'notice warnings' }, status.warnings.slice(0, 8).map((each) => el('li', null, mark('warn', each)))) : '');
    news.replaceChildren(...(events.length ? [el('h2', null, link('#/events', 'Latest events')), el('ul', null, [...events].reverse().map((each) => el('li', null, mark({ info: 'idle', warning: 'warn', error: 'bad' }[each.severity], each.text), el('span', { class: 'muted' }, moment(each.at)))))] : []));
    draw();
    if (!lists.contains(document.activeElement)) lists.replaceChildren(el('h2', null, 'Listeners'), listenerTable(seen), el('h2', null, 'Servers'), ...groupTable(seen).filter(Boolean));
  }
  chosen.addEventListener('change', () => look());
  await refreshed(look, signal, ['version', 'node', 'server'], 2000);
  return el('section', null, el('div', { class: 'heading' }, el('h1', null, 'Overview'), chosen), warnings, numbers, map, unfold, news, lists, seen.listeners.length ? null : el('p', { class: 'notice' }, 'There is no listener yet: make an ', link('#/objects/instances/+', one('instances')), ', a group of servers, a backend service and a listener, or ', el('code', null, 'paifang apply FILE'), '.'));
}
