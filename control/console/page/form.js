// A form of an object, made from its schema. What stands at its default is left out of what comes back, as the API does.
//
// Each input is made of {field, value, path, form} and calls form.set(path, value). Errors of the API name a path,
// `servers[0].port`; each input is known to the form by its own, so that they are shown where they occur.

import { button, el, prose, unique } from './dom.js';
import { title, words } from './format.js';
import { same } from './schema.js';
import { listInput } from './form_lists.js';

const LONG = 1000; // characters from which on a text has several lines
const HUGE = 200_000; // characters from which on a text is not for a form: browsers take seconds to lay it out
const LINES_SHOWN = 50;
const MANY = 300; // names from which on a list is searched, not unfolded

// Fields that belong together; those of no group come first if they are required or given by most.
const GROUPS = [
  ['Servers', /^(servers|members|dns|resolvers|file|registered)$/],
  ['TLS', /^(tls|hsts|ca_cert|client_cert|handshake|https_redirect|acme|max_handshakes)/],
  ['Health and failover', /^(health_check|ejection|slow_start|fallback|retry|zone|min_zones|min_racks|max_percent)/],
  ['Sessions and persistence', /^(sticky|persistence|established|udp_idle)/],
  ['Timeouts', /_timeout_s$/],
  ['Limits', /^(bandwidth|max_|min_body|server_max)/],
  ['Matching', /^(domain|url|path|pattern|methods|headers|queries|cookies|priority)$/],
  ['What happens', /^(split|split_by|redirect|redirect_map|fixed_reply|rewrite|request_headers|response_headers|authentication|basic|jwt|forward|certificate|cors|security_headers)$/],
  ['Forwarded headers', /^(x_forwarded|trusted_proxies|proxy_protocol|underscored)/],
  ['Protection', /protection$/],
  ['For people', /^(description|tags)$/],
];
const OPEN = new Set(['Servers', 'Matching', 'What happens', 'For people']);

export class Form {
  // `objects`: what references may name. `locked`: nothing may be changed.
  constructor({ fields, value, objects, locked = false, changed = () => {} }) {
    this.value = structuredClone(value);
    this.objects = objects;
    this.locked = locked;
    this.inputs = new Map();
    this.listener = changed;
    this.node = el('div', { class: 'form' });
    this.general = el('div', { class: 'faults', role: 'alert', hidden: true });
    this.node.append(this.general);
    const left = new Set(fields);
    const grouped = GROUPS.map(([name, pattern]) => [name, fields.filter((field) => pattern.test(field.name) && !field.required)]);
    grouped.forEach(([, found]) => found.forEach((field) => left.delete(field)));
    if (left.size) this.node.append(el('div', { class: 'grid' }, [...left].map((field) => this.input(field, this.value[field.name], field.name))));
    for (const [name, found] of grouped) if (found.length) this.node.append(this.group(name, found));
  }

  group(name, fields) {
    const given = fields.filter((field) => this.value[field.name] !== undefined).length;
    return el('details', { class: 'group', open: given > 0 || OPEN.has(name) },
      el('summary', null, name, el('span', { class: 'muted' }, given ? ` ${given} of ${fields.length} given` : ` ${fields.length} at the default`)),
      el('div', { class: 'grid' }, fields.map((field) => this.input(field, this.value[field.name], field.name))));
  }

  get(path) {
    return steps(path).reduce((value, step) => value?.[step], this.value);
  }

  set(path, value, field) {
    const way = steps(path);
    const last = way.pop();
    let holder = this.value;
    for (const step of way) holder = holder[step] ??= {};
    if (value === undefined || (field && !field.required && field.default !== undefined && same(value, field.default))) delete holder[last];
    else holder[last] = value;
    this.clear(path);
    this.listener();
  }

  input(field, value, path) {
    const make = { object: tableInput, optional: optionalInput, list: listInput, pairs: pairsInput }[field.type];
    return make ? make({ field, value, path, form: this }) : this.row(field, path, scalar({ field, value, path, form: this }), { wide: field.longest > LONG });
  }

  // Label, control, what it means, and a place for what is wrong with it.
  row(field, path, control, { wide = false } = {}) {
    const [hint, fault] = [unique('hint'), unique('fault')];
    const several = control.tagName === 'DIV';
    const main = several || control.matches('input,select,textarea') ? control : control.querySelector('input,select');
    const id = unique('field');
    main.setAttribute('id', id);
    main.setAttribute('aria-describedby', `${hint} ${fault}`);
    if (several) {
      main.setAttribute('role', 'group');
      main.setAttribute('aria-labelledby', `${id}-label`);
      main.tabIndex = -1;
    } else if (field.required) main.setAttribute('aria-required', 'true');
    const place = el('p', { id: fault, class: 'fault', hidden: true });
    const row = el('div', { class: `field ${wide ? 'wide' : ''}`, 'data-path': path },
      el(several ? 'span' : 'label', { class: 'label', id: `${id}-label`, for: several ? null : id }, label(field), field.required ? el('span', { class: 'required' }, ' required') : null),
      control, place, el('p', { id: hint, class: 'hint' }, prose(field.meaning), facts(field)));
    this.inputs.set(path, { row, main, place });
    return row;
  }

  clear(path) {
    const input = this.inputs.get(path);
    if (!input) return;
    input.place.hidden = true;
    input.row.classList.remove('wrong');
    input.main?.removeAttribute('aria-invalid');
  }

  fault(path, text) {
    let at = path;
    while (at && !this.inputs.has(at)) at = at.replace(/(\.[^.[]+|\[\d+\]|^[^.[]+)$/, '');
    const input = this.inputs.get(at);
    if (!input) return null;
    input.place.textContent = at === path ? text : `${path.slice(at.length).replace(/^\./, '')}: ${text}`;
    input.place.hidden = false;
    input.row.classList.add('wrong');
    if (input.main?.getAttribute('role') !== 'group') input.main?.setAttribute('aria-invalid', 'true');
    for (let up = input.row.parentElement; up; up = up.parentElement) if (up.tagName === 'DETAILS') up.open = true;
    return input;
  }

  // Show what the API says is wrong with `kind`/`name`; what has no place here stands at the top.
  show(errors, kind, name) {
    [...this.inputs.keys()].forEach((path) => this.clear(path));
    const prefix = `${kind}.${name}`;
    const rest = [];
    let first = null;
    for (const { object, why, suggestion } of errors) {
      const text = suggestion ? `${why}; ${suggestion}` : why;
      const own = object.startsWith(`${prefix}.`) ? object.slice(prefix.length + 1) : object.startsWith(`${kind}[`) ? object.replace(/^[^\]]*\]\.?/, '') : null;
      const input = own && this.fault(own, text);
      if (input) first ??= input;
      else rest.push(object && object !== prefix ? `${object}: ${text}` : text);
    }
    this.general.hidden = !rest.length;
    this.general.replaceChildren(...rest.map((text) => el('p', null, text)));
    (first?.main ?? (rest.length ? this.general : null))?.scrollIntoView({ block: 'center' });
    first?.main?.focus();
  }
}

// A field's name without the unit that stands beside its value.
export const label = ({ name, unit }) => title(words(unit === 's' ? name.replace(/_s$/, '') : unit === 'Mbit/s' ? name.replace(/_mbit_s$/, '') : unit === '%' ? name.replace(/_percent$/, '') : name));

const steps = (path) => path.match(/[^.[\]]+/g).map((step) => (/^\d+$/.test(step) ? Number(step) : step));

function facts(field) {
  const given = field.default;
  const shown = given === undefined || given === '' || typeof given === 'object' ? null : given === true ? 'on' : given === false ? 'off' : String(given);
  const range = field.kind ? '' : field.low === undefined ? field.expected : `${field.low} to ${field.high}${field.unit ? ` ${field.unit}` : ''}`;
  return el('span', { class: 'facts' },
    range && field.type !== 'boolean' ? el('span', null, range) : null,
    shown === null ? null : el('span', null, `default ${shown}${field.unit ? ` ${field.unit}` : ''}`));
}

// What a text is wrong for, as far as one can tell without asking.
export function misfit(field, text) {
  if (text === '') return field.required ? 'this has to be given' : '';
  if (field.type === 'integer' && !/^-?\d+$/.test(text)) return 'give a whole number';
  if (field.type === 'number' && Number.isNaN(Number(text))) return 'give a number';
  if (field.low !== undefined && (Number(text) < field.low || Number(text) > field.high)) return `${text} is out of range; give ${field.expected || `${field.low} to ${field.high}`}`;
  if (field.pattern && !new RegExp(field.pattern, 'u').test(text)) return `give ${field.expected}`;
  return '';
}

// The control of a field with one value; `label` where no label stands beside it.
export function scalar({ field, value, path, form, label }) {
  const attributes = { disabled: form.locked, name: path, 'aria-label': label };
  if (field.type === 'boolean') {
    return el('input', { ...attributes, type: 'checkbox', role: 'switch', class: 'switch', checked: value ?? field.default ?? false, on: { change: ({ target }) => form.set(path, target.checked, field) } });
  }
  if (field.type === 'choice') return choice(field.options.map((each) => [each, each]), field, value ?? field.default, path, form, attributes);
  if (field.kind) {
    const names = [...form.objects[field.kind].keys()];
    if (names.length <= MANY) return choice(names.map((each) => [each, each]), field, value, path, form, attributes);
    const listed = unique('names');
    return el('span', { class: 'pair' }, typed(field, value, path, form, { ...attributes, list: listed }), el('datalist', { id: listed }, names.map((each) => el('option', { value: each }))));
  }
  return typed(field, value, path, form, attributes);
}

function choice(options, field, value, path, form, attributes) {
  const listed = value !== undefined && value !== '' && !options.some(([each]) => each === value) ? [...options, [value, `${value} (is not there)`]] : options;
  const select = el('select', { ...attributes, on: { change: ({ target }) => form.set(path, target.value === '' ? undefined : target.value, field) } },
    field.kind || value === undefined ? el('option', { value: '' }, field.required ? 'choose…' : 'none') : null,
    listed.map(([each, text]) => el('option', { value: each }, text)));
  select.value = value ?? '';
  return select;
}

// The beginning of a text that is too long to be changed here; it stays as it is.
function beginning(value, attributes) {
  const lines = value.split('\n');
  return el('textarea', { ...attributes, readonly: true, rows: 8, class: 'code', value: `${lines.slice(0, LINES_SHOWN).join('\n')}\n… ${lines.length.toLocaleString('en')} lines, too many to be changed here: apply a file, or change single ones by the API` });
}

function typed(field, value, path, form, attributes) {
  if (value?.length > HUGE) return beginning(value, attributes);
  const number = field.type === 'integer' || field.type === 'number';
  const long = field.longest > LONG;
  const input = el(long ? 'textarea' : 'input', {
    ...attributes, type: long ? null : 'text', inputmode: number ? 'decimal' : null, autocomplete: 'off', spellcheck: 'false',
    rows: long ? 6 : null, class: number ? 'short' : long ? 'code' : '', placeholder: field.default === undefined || typeof field.default === 'object' ? null : String(field.default),
    value: value ?? '',
  });
  input.addEventListener('input', () => {
    const text = long ? input.value : input.value.trim();
    form.set(path, text === '' ? undefined : number && !Number.isNaN(Number(text)) ? Number(text) : text, field);
  });
  input.addEventListener('change', () => {
    const wrong = misfit(field, long ? input.value : input.value.trim());
    if (wrong) form.fault(path, wrong);
  });
  return number && field.unit ? el('span', { class: 'pair' }, input, el('span', { class: 'unit' }, field.unit)) : input;
}

function tableInput({ field, value, path, form }) {
  return el('fieldset', { class: 'wide', 'data-path': path }, el('legend', null, title(words(field.name))), el('p', { class: 'hint' }, prose(field.meaning)),
    el('div', { class: 'grid' }, field.fields.map((each) => form.input(each, value?.[each.name], `${path}.${each.name}`))));
}

function optionalInput({ field, value, path, form }) {
  const on = (value ?? field.default ?? false) !== false;
  const inner = el('div');
  const fill = (given) => inner.replaceChildren(...(given === false ? [] : [el('div', { class: 'grid inner' }, field.inner.fields.map((each) => form.input(each, given?.[each.name], `${path}.${each.name}`)))]));
  const control = el('input', { type: 'checkbox', role: 'switch', class: 'switch', checked: on, disabled: form.locked, on: { change: ({ target }) => {
    form.set(path, target.checked ? {} : false, field);
    fill(target.checked ? {} : false);
  } } });
  const row = form.row({ ...field, expected: '', default: field.default === false ? false : field.default === undefined ? undefined : true, type: 'switch' }, path, control, { wide: true });
  fill(on ? value ?? {} : false);
  row.append(inner);
  return row;
}

function pairsInput({ field, value, path, form }) {
  const rows = el('div', { class: 'rows' });
  let pairs = Object.entries(value ?? {});
  const give = () => form.set(path, Object.fromEntries(pairs.filter(([key]) => key !== '')), field);
  const draw = () => rows.replaceChildren(...pairs.map((pair, at) => el('div', { class: 'pair' },
    ...['key', 'value'].map((what, side) => el('input', { type: 'text', 'aria-label': `${title(words(field.name))} ${at + 1}: ${what}`, placeholder: what, value: pair[side], disabled: form.locked, on: { input: ({ target }) => { pair[side] = target.value; give(); } } })),
    form.locked ? null : button('Remove', () => { pairs = pairs.filter((each) => each !== pair); give(); draw(); }, { kind: 'small', 'aria-label': `Remove ${pair[0] || 'this pair'}` }))));
  draw();
  const control = el('div', null, rows, form.locked ? null : button('Add', () => { pairs.push(['', '']); draw(); rows.lastChild.querySelector('input').focus(); }, { kind: 'small' }));
  return form.row({ ...field, expected: '' }, path, control, { wide: true });
}
