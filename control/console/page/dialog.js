// Dialogs: a question before what cannot be taken back lightly, and what is told once.

import { button, el, unique } from './dom.js';

// Resolves with what `close(value)` was given; Escape closes with null. `content(close)` gives the nodes.
export function dialog(heading, content, { wide = false } = {}) {
  return new Promise((resolve) => {
    const id = unique('dialog');
    let answer = null;
    const close = (value) => { answer = value; box.close(); };
    const box = el('dialog', { 'aria-labelledby': id, class: wide ? 'broad' : '' }, el('h2', { id, tabindex: '-1' }, heading));
    box.append(...[content(close)].flat(Infinity).filter((each) => each));
    box.addEventListener('close', () => { box.remove(); resolve(answer); });
    document.body.append(box);
    box.showModal();
    (box.querySelector('[data-first]') ?? box.querySelector('h2')).focus();
  });
}

export const confirm = (heading, text, act, { danger = false } = {}) => dialog(heading, (close) => [
  [text].flat().map((each) => (typeof each === 'string' ? el('p', null, each) : each)),
  el('div', { class: 'actions' }, button(act, () => close(true), { kind: danger ? 'danger' : 'primary' }), button('Cancel', () => close(null), { 'data-first': true })),
]);

// A secret that is told this once.
export const secret = (heading, text, value, label) => dialog(heading, (close) => {
  const field = el('textarea', { readonly: true, rows: 4, class: 'code', 'aria-label': label, value });
  const told = el('span', { role: 'status', class: 'muted' });
  return [
    el('p', null, text), field,
    el('div', { class: 'actions' },
      button('Copy', async () => {
        field.select();
        try { await navigator.clipboard.writeText(value); told.textContent = 'copied'; } catch { told.textContent = 'select the text and copy it'; }
      }, { kind: 'primary', 'data-first': true }),
      button('I have it', () => close(true)), told),
  ];
});

// A form in a dialog: `fields` are [name, label, control]; `send(values)` may throw, which is shown.
export const asking = (heading, text, fields, act, send) => dialog(heading, (close) => {
  const wrong = el('p', { class: 'faults', role: 'alert', hidden: true });
  const controls = fields.map(([name, label, control, hint]) => {
    const id = unique('asked');
    control.id = id;
    control.name = name;
    return el('div', { class: 'field' }, el('label', { for: id }, label), control, hint ? el('p', { class: 'hint' }, hint) : null);
  });
  const form = el('form', { on: { submit: async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(fields.map(([name, , control]) => [name, control.value.trim()]));
    try { close(await send(values) ?? true); } catch (error) {
      wrong.hidden = false;
      wrong.textContent = error.message + (error.errors ?? []).map(({ object, why, suggestion }) => ` – ${object}: ${why}; ${suggestion}`).join('');
    }
  } } }, controls, wrong, el('div', { class: 'actions' }, el('button', { class: 'button primary', type: 'submit' }, act), button('Cancel', () => close(null))));
  fields[0]?.[2].setAttribute('data-first', '');
  return [text ? el('p', null, text) : null, form];
});
