// Charts of the last hours: of everything, a listener, a node or a group.

import { get } from './api.js';
import { chart } from './chart.js';
import { el, empty } from './dom.js';
import { bits, count, latency, perS } from './format.js';
import { refreshed } from './nodes.js';
import { configuration } from './store.js';

const CHARTS = [
  ['Traffic', bits, [['in', 'bytes_in_per_s'], ['out', 'bytes_out_per_s']]], ['Requests', perS, [['requests', 'requests_per_s'], ['errors', 'errors_per_s']]],
  ['New connections', perS, [['connections', 'connections_per_s']]], ['Open connections', count, [['open', 'connections']]],
  ['Latency', latency, [['p50', 'latency_p50_s'], ['p99', 'latency_p99_s']]], ['Packets in', perS, [['packets', 'packets_in_per_s']]],
];
const SPANS = [[900, '15 minutes', 10], [3600, 'an hour', 10], [6 * 3600, '6 hours', 60], [24 * 3600, 'a day', 300]];

export async function charts({ query, signal }) {
  const [{ objects }, { nodes }] = await Promise.all([configuration(), get('status', null, signal)]);
  const options = [['total', 'everything'], ...[...objects.listeners.keys()].map((name) => [`listeners/${name}`, `listener ${name}`]), ...nodes.filter(({ role }) => ['l4', 'l7'].includes(role)).map(({ role, name }) => [`nodes/${role}/${name}`, `node ${name}`]),
    ...['server_groups', 'availability_groups'].flatMap((kind) => [...objects[kind].keys()].map((name) => [`groups/${kind}/${name}`, `group ${name}`]))];
  const of = el('select', null, options.map(([value, text]) => el('option', { value }, text)));
  of.value = query.get('of') ?? 'total';
  const span = el('select', null, SPANS.map(([value, text]) => el('option', { value }, text)));
  const place = el('div', { class: 'columns' });
  const wrong = el('p', { class: 'fault', role: 'alert' });
  async function look() {
    const [length, , step] = SPANS.find(([value]) => String(value) === span.value);
    const to = Math.floor(Date.now() / 1000);
    try {
      const { start, step_s: each, series } = await get('series', { of: of.value, from: to - length, to, step }, signal);
      wrong.textContent = '';
      const made = CHARTS.map(([heading, shown, parts]) => [heading, shown, parts.filter(([, name]) => series[name]?.some((value) => value !== null)).map(([name, field]) => ({ name, values: series[field] }))]).filter(([, , lines]) => lines.length);
      if (place.contains(document.activeElement) && place.querySelector('.readout:not(:empty), [aria-expanded=true]')) return;
      place.replaceChildren(...(made.length ? made.map(([heading, shown, lines]) => chart(heading, { start, step: each, lines, shown })) : [empty('Nothing has been counted in this time.')]));
    } catch (error) { if (error.name !== 'AbortError') wrong.textContent = error.message; }
  }
  [of, span].forEach((input) => input.addEventListener('change', look));
  await refreshed(look, signal, [], 10000);
  return el('section', null, el('h1', null, 'Charts'), el('div', { class: 'filter' }, el('label', null, 'Of ', of), el('label', null, 'the last ', span)), wrong, place);
}
