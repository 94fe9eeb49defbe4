// Lists in forms: of texts, one a line; of names, chosen one by one; of tables, a row each.

import { button, el, say } from './dom.js';
import { title, words } from './format.js';
import { misfit, scalar } from './form.js';

const PAGE = 100; // rows at a time; a group may have thousands of servers

export function listInput({ field, value, path, form }) {
  if (field.item.type === 'object') return tables(field, value ?? [], path, form);
  if (field.item.kind) return names(field, value ?? [], path, form);
  const input = el('textarea', { rows: Math.min(Math.max((value ?? []).length + 1, 2), 12), class: 'code', name: path, spellcheck: 'false', disabled: form.locked, value: (value ?? []).join('\n'), placeholder: 'one a line' });
  const given = () => input.value.split('\n').map((line) => line.trim()).filter((line) => line !== '');
  input.addEventListener('input', () => form.set(path, given(), field));
  input.addEventListener('change', () => {
    const wrong = given().map((line) => [line, misfit(field.item, line)]).find(([, text]) => text);
    if (wrong) form.fault(path, `${wrong[0]}: give ${field.expected}`);
  });
  return form.row({ ...field, expected: '' }, path, input);
}

function names(field, value, path, form) {
  const rows = el('div', { class: 'rows' });
  const listed = [...value];
  const give = () => form.set(path, listed.filter((each) => each), field);
  const inner = (at) => ({ objects: form.objects, locked: form.locked, set: (_, chosen) => { listed[at] = chosen; give(); } });
  const draw = () => rows.replaceChildren(...listed.map((each, at) => el('div', { class: 'pair' },
    scalar({ field: { ...field.item, required: true }, value: each, path: `${path}[${at}]`, form: inner(at), label: `${title(words(field.name))} ${at + 1}` }),
    form.locked ? null : button('Remove', () => { listed.splice(at, 1); give(); draw(); }, { kind: 'small', 'aria-label': `Remove ${each ?? 'this one'}` }))));
  draw();
  const control = el('div', null, rows, form.locked ? null : button('Add', () => { listed.push(undefined); draw(); rows.lastChild.querySelector('select,input').focus(); }, { kind: 'small' }));
  return form.row({ ...field, expected: '' }, path, control);
}

function tables(field, value, path, form) {
  const listed = structuredClone(value);
  const flat = field.item.fields.every((each) => !['object', 'list', 'pairs', 'optional'].includes(each.type));
  const place = el('div', { class: 'tables' });
  const count = el('span', { class: 'muted', role: 'status' });
  let from = 0;
  const give = () => form.set(path, listed, field);
  const forget = () => [...form.inputs.keys()].filter((key) => key.startsWith(`${path}[`)).forEach((key) => form.inputs.delete(key));

  // A part of the form whose paths begin with this list's.
  const part = { objects: form.objects, locked: form.locked, inputs: form.inputs, get: (at) => form.get(at), clear: (at) => form.clear(at), fault: (at, text) => form.fault(at, text),
    row: (...given) => form.row(...given), input: (...given) => form.input.apply(part, given),
    set: (at, given, of) => {
      const [, index, rest] = /^\[(\d+)\](?:\.(.*))?$/.exec(at.slice(path.length));
      let holder = listed[Number(index)];
      const way = rest.match(/[^.[\]]+/g);
      const last = way.pop();
      for (const step of way) holder = holder[step] ??= {};
      if (given === undefined || (of && !of.required && of.default !== undefined && JSON.stringify(given) === JSON.stringify(of.default))) delete holder[last];
      else holder[last] = given;
      give();
      form.clear(at);
    } };

  function cell(each, row, at) {
    const where = `${path}[${at}].${each.name}`;
    const control = scalar({ field: each, value: row[each.name], path: where, form: part, label: `${title(words(each.name))} of ${at + 1}` });
    const main = control.matches('input,select,textarea') ? control : control.querySelector('input,select');
    const fault = el('p', { class: 'fault', hidden: true });
    const holder = el('td', null, control, fault);
    form.inputs.set(where, { row: holder, main, place: fault });
    return holder;
  }

  function draw() {
    forget();
    from = Math.min(from, Math.max(0, Math.floor((listed.length - 1) / PAGE) * PAGE));
    const shown = listed.slice(from, from + PAGE).map((row, at) => [row, from + at]);
    const remove = (at) => (form.locked ? null : button('Remove', () => { listed.splice(at, 1); give(); draw(); say('removed'); }, { kind: 'small', 'aria-label': `Remove ${at + 1}` }));
    count.textContent = listed.length > PAGE ? `${from + 1} to ${from + shown.length} of ${listed.length}` : '';
    place.replaceChildren(...(!shown.length ? [el('p', { class: 'muted' }, 'None.')] : flat
      ? [el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': title(words(field.name)) }, el('table', { class: 'inputs' },
        el('thead', null, el('tr', null, field.item.fields.map((each) => el('th', { scope: 'col', title: `${each.meaning}${each.expected ? `: ${each.expected}` : ''}` }, title(words(each.name)), each.unit ? ` (${each.unit})` : '')), el('th', { scope: 'col' }, el('span', { class: 'unseen' }, 'Actions')))),
        el('tbody', null, shown.map(([row, at]) => el('tr', null, field.item.fields.map((each) => cell(each, row, at)), el('td', null, remove(at)))))))]
      : shown.map(([row, at]) => el('fieldset', null, el('legend', null, `${at + 1}`), el('div', { class: 'grid' }, field.item.fields.map((each) => part.input(each, row[each.name], `${path}[${at}].${each.name}`))), remove(at)))));
    back.hidden = from === 0;
    on.hidden = from + PAGE >= listed.length;
  }
  const back = button('Earlier', () => { from -= PAGE; draw(); }, { kind: 'small' });
  const on = button('Later', () => { from += PAGE; draw(); }, { kind: 'small' });
  const add = form.locked ? null : button('Add', () => {
    listed.push({});
    from = Math.floor((listed.length - 1) / PAGE) * PAGE;
    give();
    draw();
    form.inputs.get(`${path}[${listed.length - 1}].${field.item.fields[0].name}`)?.main.focus();
  }, { kind: 'small' });
  draw();
  return form.row({ ...field, expected: '' }, path, el('div', null, place, el('div', { class: 'pair' }, add, back, on, count)), { wide: true });
}
