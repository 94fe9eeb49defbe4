// A small line chart: axes with round numbers, a readout by pointer or arrow keys, and the same as a table.

import { button, el, svg, table } from './dom.js';
import { clock, moment } from './format.js';

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [640, 190, 74, 24, 10];

// The steps of an axis from 0 to `most`: 1, 2 or 5 times a power of ten.
export function ticks(most, wanted = 4) {
  if (!(most > 0)) return [0, 1];
  const raw = most / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, at) => at * step);
}

// `lines`: {name, values: [number|null]}; `shown` writes a value.
export function chart(heading, { start, step, lines, shown }) {
  const length = Math.max(...lines.map(({ values }) => values.length), 1);
  const steps = ticks(lines.reduce((most, { values }) => values.reduce((max, each) => Math.max(max, each ?? 0), most), 0));
  const top = steps.at(-1);
  const x = (at) => LEFT + ((WIDTH - LEFT - 8) * at) / Math.max(length - 1, 1);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const path = (values) => {
    let pen = 'M';
    let made = '';
    values.forEach((value, at) => {
      if (value === null || value === undefined) { pen = 'M'; return; }
      const alone = pen === 'M' && (values[at + 1] === null || values[at + 1] === undefined);
      made += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}${alone ? 'h2' : ''}`;
      pen = 'L';
    });
    return made;
  };
  const when = (at) => start + at * step;
  const every = Math.max(1, Math.round(length / 6));
  const cursor = svg('line', { class: 'cursor', y1: TOP, y2: HEIGHT - BOTTOM, visibility: 'hidden' });
  const readout = el('div', { class: 'readout', 'aria-live': 'polite' });
  const latest = (values) => values.findLast((each) => each !== null && each !== undefined);
  let place = length - 1;
  const point = (at) => {
    place = Math.min(Math.max(at, 0), length - 1);
    cursor.setAttribute('x1', x(place));
    cursor.setAttribute('x2', x(place));
    cursor.setAttribute('visibility', 'visible');
    readout.textContent = `${moment(when(place))}: ${lines.map(({ name, values }) => `${name} ${shown(values[place])}`).join(', ')}`;
  };
  const picture = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', tabindex: '0', 'aria-label': `${heading}: ${lines.map(({ name, values }) => `${name} ${shown(latest(values))} now`).join(', ')}. Arrow keys read it.` },
    steps.map((value) => [svg('line', { class: 'rule', x1: LEFT, x2: WIDTH - 8, y1: y(value), y2: y(value) }), svg('text', { x: LEFT - 8, y: y(value) + 4, 'text-anchor': 'end' }, shown(value))]),
    Array.from({ length }, (_, at) => at).filter((at) => at % every === 0).map((at) => svg('text', { x: x(at), y: HEIGHT - 6, 'text-anchor': at ? 'middle' : 'start' }, clock(when(at)).slice(0, 5))),
    lines.map(({ values }, at) => svg('path', { class: `s${at}`, d: path(values) })), cursor);
  picture.addEventListener('pointermove', (event) => { const box = picture.getBoundingClientRect(); point(Math.round((((event.clientX - box.left) / box.width) * WIDTH - LEFT) / ((WIDTH - LEFT - 8) / Math.max(length - 1, 1)))); });
  picture.addEventListener('keydown', (event) => {
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: length - 1, PageUp: place - 10, PageDown: place + 10 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    point(to);
  });
  const rows = Array.from({ length }, (_, at) => length - 1 - at);
  const holder = el('div', { hidden: true });
  const toggle = button('Table', () => {
    holder.hidden = !holder.hidden;
    toggle.setAttribute('aria-expanded', String(!holder.hidden));
    if (!holder.hidden) holder.replaceChildren(table(heading, [{ title: 'Time', cell: (at) => moment(when(at)) }, ...lines.map(({ name, values }) => ({ title: name, number: true, cell: (at) => shown(values[at]) }))], rows.slice(0, 500)));
  }, { kind: 'small', 'aria-expanded': 'false', 'aria-label': `${heading} as a table` });
  return el('figure', { class: 'chart' }, el('figcaption', null, heading, lines.length > 1 ? lines.map(({ name }, at) => el('span', { class: `key s${at}` }, svg('svg', { viewBox: '0 0 26 8', 'aria-hidden': 'true' }, svg('path', { class: `s${at}`, d: 'M0 4h26' })), name)) : null), picture, readout, toggle, holder);
}
