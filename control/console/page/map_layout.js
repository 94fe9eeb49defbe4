// Where the parts of the picture stand: a column for each tier, boxes below each other, flows between them. Pure.
//
// A column shows MOST boxes; the others are one box that says how many they are, and how many of them are down. The
// width of a flow goes by the logarithm of what passes, so that ten times as much can be seen beside a tenth.

import { bits, endpoint, perS } from './format.js';

const MOST = 8;
const UNFOLDED = 200;
const HEIGHT = 42;
const GAP = 12;
const TOP = 32;
const ORDER = ['clients', 'vip', 'l4', 'l7', 'group', 'server'];
const STEPS = { 'in step': 'good', lagging: 'warn', silent: 'bad' };
const SERVER = { up: 'good', down: 'bad', draining: 'idle', unknown: 'unknown' };
const RANK = { bad: 0, warn: 1, unknown: 2, idle: 3, good: 4 };

const passing = (each) => (each.requests_per_s ? perS(each.requests_per_s).replace('/s', ' req/s') : each.bytes_per_s || each.bytes_in_per_s ? bits(each.bytes_per_s ?? each.bytes_in_per_s) : '');
const thickness = (bytesPerS, others = 0) => { const rate = Math.max(bytesPerS ?? 0, (others ?? 0) * 500); return rate > 0 ? Math.min(14, 1.5 + 1.6 * Math.log10(1 + rate / 100)) : 0; };
const key = ({ kind, name, group_kind: of }) => (of ? `${kind}/${of}/${name}` : `${kind}/${name}`);

function worst(servers) {
  const down = servers.filter(({ state }) => state === 'down').length;
  if (!servers.length) return 'unknown';
  if (down === servers.length) return 'bad';
  return down ? 'warn' : servers.every(({ state }) => state === 'unknown') ? 'unknown' : 'good';
}

function items(seen) {
  const found = { clients: [{ key: 'clients/clients', name: 'Clients', below: passing(seen.clients), state: 'idle', href: '#/', label: `Clients ${passing(seen.clients)}` }], vip: [], l4: [], l7: [], group: [], server: [] };
  for (const { name, type, vips } of seen.instances) {
    for (const vip of vips.length ? vips : ['any address']) found.vip.push({ key: `vip/${vips.length ? vip : name}`, keys: [`vip/${vip}`, `vip/${name}`], name: vip, below: `${name} · ${type}`, state: 'idle', href: `#/objects/instances/${encodeURIComponent(name)}`, label: `VIP ${vip} of ${name}` });
  }
  for (const node of seen.nodes) {
    const state = node.draining && node.step === 'in step' ? 'idle' : STEPS[node.step] ?? 'unknown';
    const told = node.draining ? 'draining' : node.step;
    found[node.role]?.push({ key: `${node.role}/${node.name}`, name: node.name, below: node.step === 'in step' && !node.draining ? passing(node.rates) || told : told, state, href: '#/nodes', label: `${node.role} node ${node.name}, ${told} ${node.why ?? ''}` });
  }
  for (const group of seen.groups) {
    const total = group.servers_total ?? group.servers.length;
    const down = group.servers.filter(({ state }) => state === 'down').length;
    found.group.push({ key: `group/${group.kind}/${group.name}`, name: group.name, below: down ? `${down} of ${total} down` : `${total} server${total === 1 ? '' : 's'}`, state: worst(group.servers), href: `#/objects/${group.kind}/${encodeURIComponent(group.name)}`, label: `Group ${group.name}, ${total} servers, ${down} down` });
    for (const server of group.servers) {
      const name = endpoint(server);
      found.server.push({ key: `server/${group.kind}/${group.name}/${name}`, group: `group/${group.kind}/${group.name}`, name, below: server.state === 'up' ? passing(server.rates ?? {}) || `weight ${server.weight}` : server.state, state: SERVER[server.state] ?? 'unknown', rates: server.rates, href: `#/objects/${group.kind}/${encodeURIComponent(group.name)}`, label: `Server ${name} of ${group.name}, ${server.state} ${server.why ?? ''}` });
    }
  }
  return found;
}

// How many there are that the API has not told of: it tells of the first of each list.
function beyond(seen) {
  const servers = seen.groups.reduce((sum, each) => sum + Math.max(0, (each.servers_total ?? 0) - each.servers.length), 0);
  return { group: Math.max(0, (seen.groups_total ?? 0) - seen.groups.length), server: servers };
}

// From box to box. One that passes a column by runs between its boxes, so that it is not taken for theirs.
function way(from, to, step) {
  const [x1, y1, x2, y2] = [from.x + from.width, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
  if (x2 - from.x < step * 1.5) {
    const bend = (x2 - x1) / 2;
    return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
  }
  const [begin, end, between] = [from.x + step, x2 - (step - to.width), from.y + HEIGHT + GAP / 2];
  const [first, last] = [(x1 + begin) / 2, (end + x2) / 2];
  return `M${x1} ${y1}C${first} ${y1} ${first} ${between} ${begin} ${between}H${end}C${last} ${between} ${last} ${y2} ${x2} ${y2}`;
}

export function placed(seen, { width, open }) {
  const found = items(seen);
  const untold = beyond(seen);
  const shown = ORDER.filter((kind) => found[kind].length);
  const step = width / shown.length;
  const boxes = [];
  const at = new Map();
  const columns = [];
  const folded = [];
  shown.forEach((kind, column) => {
    const x = column * step + 6;
    columns.push({ kind, x });
    const sorted = found[kind].length > MOST && kind !== 'group' ? [...found[kind]].sort((a, b) => RANK[a.state] - RANK[b.state]) : found[kind];
    const most = open.has(kind) ? UNFOLDED : MOST;
    const more = untold[kind] ?? 0;
    const rest = sorted.length > most || more ? sorted.slice(most - 1) : [];
    const own = rest.length ? sorted.slice(0, most - 1) : sorted;
    const list = [...own];
    if (rest.length || more) {
      const bad = rest.filter(({ state }) => state === 'bad').length;
      const unknown = more || (kind === 'server' && untold.group);
      // Servers of groups that are not told of are not even counted.
      const number = `${(rest.length + more).toLocaleString('en')}${kind === 'server' && untold.group ? ' and' : ''} more`;
      const below = bad ? `${bad} of them down` : unknown ? 'see their pages' : 'none of them down';
      list.push({ key: `rest/${kind}`, keys: rest.flatMap((each) => [each.key, ...(each.keys ?? [])]), name: number, below, state: bad ? 'warn' : unknown ? 'unknown' : 'good', href: kind === 'server' || kind === 'group' ? '#/objects/server_groups' : '#/nodes', label: `${number} ${kind}, ${below}`, rest });
      if (!open.has(kind) && rest.length) folded.push({ kind, left: Math.min(rest.length, UNFOLDED) });
    }
    list.forEach((each, row) => {
      const box = { ...each, x, y: TOP + row * (HEIGHT + GAP), width: Math.min(step - 46, 190), height: HEIGHT };
      boxes.push(box);
      for (const name of [each.key, ...(each.keys ?? [])]) if (!at.has(name)) at.set(name, box);
    });
  });
  const sums = new Map();
  const link = (from, to, bytes, requests, connections) => {
    if (!from || !to || from === to) return;
    const name = `${from.key}→${to.key}`;
    const sum = sums.get(name) ?? { from, to, bytes: 0, requests: 0, connections: 0 };
    sum.bytes += bytes ?? 0;
    sum.requests += requests ?? 0;
    sum.connections += connections ?? 0;
    sums.set(name, sum);
  };
  const end = (each) => at.get(key(each)) ?? (each.kind === 'clients' ? at.get('clients/clients') : undefined);
  for (const each of seen.links) link(end(each.from), end(each.to), each.bytes_per_s, each.requests_per_s, each.connections_per_s);
  for (const each of found.server) link(at.get(each.group), at.get(each.key), (each.rates?.bytes_in_per_s ?? 0) + (each.rates?.bytes_out_per_s ?? 0), each.rates?.requests_per_s, each.rates?.connections_per_s);
  const flows = [...sums.values()].map(({ from, to, bytes, requests, connections }) => {
    return { width: thickness(bytes, requests || connections), path: way(from, to, step), text: `${from.name} to ${to.name}: ${bits(bytes)}, ${perS(requests)} requests` };
  });
  return { boxes, flows, columns, folded, height: Math.max(120, ...boxes.map(({ y }) => y + HEIGHT + 14)) };
}
