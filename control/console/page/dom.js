// Elements from names, attributes and children. Text is always text: nothing here, or anywhere in the console, makes
// HTML of a string, since names and remarks in a configuration are whatever somebody has written.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'on') for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === 'value' || name === 'checked' || name === 'selected') node[name] = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  return node;
}

export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const link = (href, ...children) => el('a', { href }, ...children);

export const button = (text, press, { kind = '', ...attributes } = {}) =>
  el('button', { type: 'button', class: `button ${kind}`, on: { click: press }, ...attributes }, text);

// Who listens to the page is told, without moving the focus.
export function say(text, { urgent = false } = {}) {
  const place = document.getElementById(urgent ? 'urgent' : 'polite');
  place.textContent = '';
  requestAnimationFrame(() => { place.textContent = text; });
}

let last = 0;
export const unique = (prefix) => `${prefix}-${(last += 1)}`;

// `text` with `code` as code and [words](links) as words, as the model's meanings are written.
export function prose(text) {
  const parts = text.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').split('`');
  return parts.map((part, at) => (at % 2 ? el('code', null, part) : part));
}

// A state by shape, word and colour, so that none of them is needed alone.
const SHAPES = { good: 'M3 8.5l3.2 3.2L13 5', bad: 'M4 4l8 8M12 4l-8 8', warn: 'M8 3v6.5M8 12.6v.4', idle: 'M4 8h8', unknown: 'M5.5 6a2.5 2.5 0 1 1 3.4 2.3c-.7.3-.9.8-.9 1.5M8 12.6v.4' };
export const mark = (state, text, title) =>
  el('span', { class: `mark ${state}`, title },
    svg('svg', { viewBox: '0 0 16 16', 'aria-hidden': 'true' }, svg('path', { d: SHAPES[state] ?? SHAPES.unknown })), text);

export const empty = (text, ...more) => el('div', { class: 'empty' }, el('p', null, text), more);

// A table. `columns`: {title, cell(row) → node or text, key(row) → what it is sorted by, number}.
export function table(caption, columns, rows, { none = 'There are none.', sorted = null } = {}) {
  let by = sorted === null ? null : { at: Math.abs(sorted) - 1, down: sorted < 0 };
  const body = el('tbody');
  const heads = columns.map((column, at) => {
    const head = el('th', { scope: 'col', class: column.number ? 'number' : '' });
    if (!column.key) head.append(column.title === '' ? el('span', { class: 'unseen' }, 'Actions') : column.title);
    else {
      head.append(el('button', { type: 'button', class: 'sort', on: { click: () => {
        by = { at, down: by?.at === at ? !by.down : Boolean(column.number) };
        draw();
      } } }, column.title));
    }
    return head;
  });
  function draw() {
    heads.forEach((head, at) => {
      if (by?.at === at) head.setAttribute('aria-sort', by.down ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
    const key = by && columns[by.at].key;
    const turn = by?.down ? -1 : 1;
    const listed = key ? [...rows].sort((one, other) => turn * compare(key(one), key(other))) : rows;
    body.replaceChildren(...listed.map((row) => el('tr', null, columns.map((column, at) =>
      el(at === 0 ? 'th' : 'td', { scope: at === 0 ? 'row' : null, class: column.number ? 'number' : '', 'data-title': column.title }, column.cell(row))))));
    if (!rows.length) body.append(el('tr', null, el('td', { colspan: columns.length, class: 'none' }, none)));
  }
  draw();
  return el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    el('table', null, el('caption', { class: 'unseen' }, caption), el('thead', null, el('tr', null, heads)), body));
}

function compare(one, other) {
  if (typeof one === 'number' && typeof other === 'number') return one - other;
  if (one === null || one === undefined) return -1;
  if (other === null || other === undefined) return 1;
  return String(one).localeCompare(String(other), 'en', { numeric: true });
}
