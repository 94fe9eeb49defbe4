// The API's changes as people read them: what is new, gone or other, field by field.

import { el, link } from './dom.js';
import { one } from './format.js';
import { same } from './schema.js';

const WORDS = { create: ['+', 'creates'], update: ['~', 'changes'], delete: ['−', 'deletes'], reorder: ['↕', 'moves'] };
const LONG = 400;

// What a field is where it is not given, by kind and name; known once the API's document has been read.
const defaults = new Map();
export function learn(kind, fields) {
  defaults.set(kind, new Map(fields.filter((field) => ['string', 'number', 'boolean'].includes(typeof field.default)).map((field) => [field.name, field.default])));
}

const shown = (value, kind, path) => {
  if (value === undefined) {
    const known = defaults.get(kind)?.get(path);
    return known === undefined ? 'not given' : `${known} (default)`;
  }
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text.length > LONG ? `${text.slice(0, LONG)}… (${text.length} characters)` : text;
};
const key = (item) => (item && typeof item === 'object' ? item.address ? `${item.address}:${item.port ?? ''}` : item.name ?? item.backend_service : item);
const plain = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

// [path, old, new] of every difference; lists go by what names their members.
export function differences(old, now, path = '') {
  if (same(old ?? null, now ?? null)) return [];
  if (plain(old) && plain(now)) {
    return [...new Set([...Object.keys(old), ...Object.keys(now)])].flatMap((name) => differences(old[name], now[name], path ? `${path}.${name}` : name));
  }
  if (Array.isArray(old) && Array.isArray(now)) {
    const [before, after] = [old, now].map((list) => new Map(list.map((item) => [key(item), item])));
    if (!before.has(undefined) && !after.has(undefined) && before.size === old.length && after.size === now.length) {
      const found = [...new Set([...before.keys(), ...after.keys()])].flatMap((name) => differences(before.get(name), after.get(name), `${path}[${name}]`));
      if (found.length) return found;
    }
  }
  return [[path, old, now]];
}

function rows(change) {
  if (change.op === 'update' || (change.old && change.new)) return differences(change.old, change.new);
  const [item, place] = change.old ? [change.old, 1] : [change.new, 2];
  return Object.entries(item ?? {}).filter(([name]) => name !== 'name').map(([name, value]) => (place === 1 ? [name, value, undefined] : [name, undefined, value]));
}

function line([path, old, now], change) {
  const before = old === undefined && change.op !== 'update' ? null : el('del', null, el('span', { class: 'unseen' }, 'was '), shown(old, change.kind, path));
  const after = now === undefined && change.op !== 'update' ? null : el('ins', null, el('span', { class: 'unseen' }, 'becomes '), shown(now, change.kind, path));
  return el('div', { class: 'difference' }, el('span', { class: 'path' }, path), el('span', { class: 'values' }, before, before && after ? ' → ' : null, after));
}

// `links`: the objects lead to their pages.
export function diff(changes, { links = false, limit = 200 } = {}) {
  if (!changes.length) return el('p', { class: 'muted' }, 'Nothing changes.');
  return el('ul', { class: 'diff' }, changes.slice(0, limit).map((change) => {
    const [sign, word] = WORDS[change.op] ?? ['~', change.op];
    const name = `${one(change.kind)} ${change.name}`;
    return el('li', { class: change.op },
      el('div', { class: 'what' }, el('span', { class: 'sign', 'aria-hidden': 'true' }, sign), `${word} `, links && change.new ? link(`#/objects/${change.kind}/${change.name}`, name) : el('b', null, name)),
      rows(change).map((each) => line(each, change)));
  }), changes.length > limit ? el('li', null, `and ${changes.length - limit} more`) : null);
}

export const summary = (changes) => {
  const counts = Object.groupBy ? Object.groupBy(changes, ({ op }) => op) : {};
  const told = [['create', 'created'], ['update', 'changed'], ['delete', 'deleted'], ['reorder', 'moved']].filter(([op]) => counts[op]).map(([op, word]) => `${counts[op].length} ${word}`);
  return told.join(', ') || 'nothing changes';
};
