// All kinds of objects: lists with a search, and a page of each with its form, its servers and who refers to it.

import { ask, name as escaped, read } from './api.js';
import { add, pending, pendingOf, plan, reviewed } from './changeset.js';
import { confirm, dialog } from './dialog.js';
import { diff } from './diff.js';
import { button, el, link, prose, say, table, unique } from './dom.js';
import { Form } from './form.js';
import { endpoint, many, one, title, words } from './format.js';
import { live } from './live.js';
import { same } from './schema.js';
import * as session from './session.js';
import { after, configuration, KINDS, schemas, store } from './store.js';

const SHOWN = 200; // rows of a list at a time
const WEIGHED = { server_groups: 'servers', availability_groups: 'members' };
const COLUMNS = {
  instances: ['type', 'vips'], listeners: ['protocol', 'port', 'instance', 'backend_service', 'enabled'], rules: ['listener', 'domain', 'url', 'backend_service', 'priority'],
  backend_services: ['protocol', 'server_group', 'availability_group', 'scheduler'], server_groups: ['servers'], availability_groups: ['members', 'dns'],
  certificates: ['domains'], ca_certificates: [], authentications: ['backend_service', 'user_field'], access_lists: ['entries'], redirect_maps: ['status', 'keep_query'], nodes: ['role', 'address', 'zone'],
};
const COUNTED = new Set(['servers', 'members', 'entries', 'dns']);

export const where = (kind, name) => `#/objects/${kind}/${escaped(name)}`;

function cell(kind, name, item, field) {
  const value = item[name] ?? field?.default;
  if (COUNTED.has(name)) return String((value ?? []).length);
  if (value === undefined || value === '') return '–';
  if (field?.kind && item[name]) return link(where(field.kind, value), value);
  return Array.isArray(value) ? value.join(', ') : typeof value === 'boolean' ? (value ? 'yes' : 'no') : String(value);
}

// An address may name anything: the API is asked for kinds that there are alone.
function known(kind) {
  if (!KINDS.includes(kind)) throw Object.assign(new Error(`there are no ${kind}`), { status: 404 });
}

export async function objects({ params: { kind }, query, signal }) {
  known(kind);
  const [held, schema] = await Promise.all([configuration(), schemas()]);
  const fields = Object.fromEntries(schema.fields(kind).map((field) => [field.name, field]));
  const list = el('div');
  const told = el('p', { class: 'muted', role: 'status' });
  const search = el('input', { type: 'search', 'aria-label': `Search ${many(kind)}`, placeholder: 'name, tag or any value', value: query.get('q') ?? '' });
  const draw = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const items = [...held.objects[kind].values()];
    const found = items.filter((item) => { const text = JSON.stringify(item).toLowerCase(); return wanted.every((word) => text.includes(word)); });
    told.textContent = `${found.length} of ${items.length}${found.length > SHOWN ? `, the first ${SHOWN} are shown` : ''}`;
    list.replaceChildren(table(title(many(kind)), [
      { title: 'Name', key: (item) => item.name, cell: (item) => link(where(kind, item.name), item.name) },
      ...COLUMNS[kind].map((name) => ({ title: title(words(name)), number: COUNTED.has(name) || name === 'port' || name === 'priority', key: (item) => (COUNTED.has(name) ? (item[name] ?? []).length : item[name] ?? fields[name]?.default), cell: (item) => cell(kind, name, item, fields[name]) })),
      { title: 'Description', cell: (item) => item.description ?? '' },
      { title: 'Tags', cell: (item) => Object.entries(item.tags ?? {}).map(([key, value]) => el('span', { class: 'tag' }, `${key}=${value}`)) },
    ], found.slice(0, SHOWN), { none: items.length ? 'None matches.' : `There are no ${many(kind)} yet.` }));
  };
  search.addEventListener('input', draw);
  store.addEventListener('changed', async () => { Object.assign(held, await configuration()); draw(); }, { signal });
  draw();
  return el('section', null,
    el('div', { class: 'heading' }, el('h1', null, title(many(kind))), session.may('admin') ? el('a', { class: 'button primary', href: `#/objects/${kind}/+` }, 'Create') : null),
    el('p', { class: 'lead' }, prose(schema.about(kind).split('\n\n')[0])), el('div', { class: 'filter' }, search, told), list);
}

// What may be named: what there is, and what the change set will make.
function named(all) {
  const made = Object.fromEntries(Object.entries(all).map(([kind, items]) => [kind, new Map(items)]));
  for (const { op, kind, name, object } of pending()) if (op === 'delete') made[kind].delete(name); else made[kind].set(name, object);
  return made;
}

export async function objectPage({ params: { kind, name }, query, signal }) {
  known(kind);
  const [{ objects: all }, schema] = await Promise.all([configuration(), schemas()]);
  const fresh = name === '+';
  const waiting = pendingOf(kind, name);
  const from = fresh ? query.get('of') : name;
  const present = from ? await read(`${kind}/${escaped(from)}`, signal).catch((error) => { if (waiting) return null; throw error; }) : null;
  const { name: _, ...value } = waiting?.object ?? present?.document ?? {};
  const locked = !session.may('admin');
  const news = el('div', { class: 'notice', role: 'status', hidden: true });
  const fields = schema.fields(kind);
  const form = new Form({ fields, value, objects: named(all), locked, changed: () => { dirty.textContent = 'not saved'; } });
  const dirty = el('span', { class: 'muted', role: 'status' });
  const called = unique('name');
  const naming = el('input', { type: 'text', id: called, name: 'name', required: true, spellcheck: 'false', autocomplete: 'off' });
  const before = present?.document;
  const current = () => {
    const own = fresh ? naming.value.trim() : name;
    return { op: fresh || waiting?.op === 'create' ? 'create' : 'update', kind, name: own, object: { name: own, ...form.value }, ...(fresh ? {} : { if_match: waiting?.if_match ?? present?.etag, before }) };
  };
  const act = async (keep) => {
    const edit = current();
    if (!edit.name) { naming.focus(); say('give a name', { urgent: true }); return; }
    form.show([], kind, edit.name);
    try {
      if (keep) { await plan([...pending().filter((each) => each.kind !== kind || each.name !== edit.name), edit]); add(edit); dirty.textContent = ''; location.hash = '#/changes'; return; }
      const outcome = await reviewed([edit]);
      if (outcome === true || outcome === 'theirs') { location.hash = where(kind, edit.name); dispatchEvent(new HashChangeEvent('hashchange')); }
      else if (outcome === 'kept') location.hash = '#/changes';
    } catch (error) {
      form.show(error.errors.length ? error.errors : [{ object: '', why: error.message }], kind, edit.name);
      say(`not accepted: ${error.errors.length || 1} error(s)`, { urgent: true });
    }
  };
  live.addEventListener('version', ({ detail }) => {
    const own = detail.changes.find((each) => each.kind === kind && each.name === name);
    if (!own || same(own.new, before)) return;
    news.hidden = false;
    news.replaceChildren(`${detail.author} has changed this in version ${detail.version}. `, diff([own]), button('Read it again', () => dispatchEvent(new HashChangeEvent('hashchange')), { kind: 'small' }));
  }, { signal });
  const users = fresh ? [] : schema.referrers(all, kind, name);
  const used = fresh ? [] : schema.references(kind, value);
  const chips = (heading, listed) => el('div', { class: 'chips' }, el('h2', null, heading), listed.length ? el('ul', null, listed.slice(0, 60).map(([to, each]) => el('li', null, link(where(to, each), `${one(to)} ${each}`)))) : el('span', { class: 'muted' }, 'nothing'), listed.length > 60 ? `and ${listed.length - 60} more` : null);
  return el('section', null,
    el('div', { class: 'heading' }, el('h1', null, fresh ? `New ${one(kind)}` : `${title(one(kind))} ${name}`),
      fresh || locked ? null : [el('a', { class: 'button', href: `#/objects/${kind}/+?of=${escaped(name)}` }, 'Copy'), button('Delete', () => remove(kind, name, users, present), { kind: 'danger' })]),
    waiting ? el('p', { class: 'notice' }, 'This edit is in the change set. ', link('#/changes', 'Show the change set')) : null, news,
    fresh ? el('div', { class: 'field' }, el('label', { for: called }, 'Name', el('span', { class: 'required' }, ' required')), naming) : el('div', { class: 'relations' }, chips('Used by', users), chips('Refers to', used)),
    !fresh && WEIGHED[kind] ? weights(kind, name, present?.document ?? {}) : null,
    el('form', { class: 'object', 'aria-label': `${title(one(kind))} fields`, on: { submit: (event) => { event.preventDefault(); act(false); } } }, form.node,
      locked ? el('p', { class: 'muted' }, 'The role of your token may not change this.') : el('div', { class: 'actions sticky' },
        el('button', { type: 'submit', class: 'button primary' }, 'Review'), button('Add to the change set', () => act(true)), dirty)));
}

async function remove(kind, name, users, present) {
  if (users.length) {
    await dialog(`${title(one(kind))} ${name} is in use`, (close) => [el('p', null, 'These refer to it; change or delete them first, or in the same change set:'), el('ul', null, users.map(([to, each]) => el('li', null, link(where(to, each), `${one(to)} ${each}`)))),
      el('div', { class: 'actions' }, button('Delete it in the change set', () => { add({ op: 'delete', kind, name, if_match: present?.etag, before: present?.document }); close(); location.hash = '#/changes'; }), button('Close', () => close(), { 'data-first': true }))]);
    return;
  }
  try {
    const outcome = await reviewed([{ op: 'delete', kind, name, if_match: present?.etag, before: present?.document }]);
    if (outcome === true) location.hash = `#/objects/${kind}`;
    if (outcome === 'kept') location.hash = '#/changes';
  } catch (error) {
    await confirm('It cannot be deleted', error.message, 'Close');
  }
}

// Weights by slider, number or the drain button: of a few servers at once, by who operates, too.
function weights(kind, group, item) {
  const servers = item[WEIGHED[kind]] ?? [];
  if (!servers.length) return null;
  const wanted = new Map();
  const told = el('span', { role: 'status', class: 'muted' });
  const wrong = el('p', { class: 'fault', role: 'alert' });
  const search = el('input', { type: 'search', placeholder: 'address, zone or rack', 'aria-label': 'Search servers' });
  const place = el('div');
  const send = async (changed) => {
    wrong.textContent = '';
    const body = { servers: changed };
    try {
      const plan = await ask('POST', `${kind}/${escaped(group)}/weights`, { query: { dry_run: 1 }, body });
      const yes = await confirm('Change weights', el('div', { class: 'planned' }, diff(plan.changes)), 'Apply');
      if (!yes) return;
      const done = await ask('POST', `${kind}/${escaped(group)}/weights`, { body });
      after(done, session.who().name);
      say(`weights are those of version ${done.version}`);
      dispatchEvent(new HashChangeEvent('hashchange'));
    } catch (error) { wrong.textContent = error.message; }
  };
  const row = (server) => {
    const now = server.weight ?? 100;
    const label = endpoint(server);
    const number = el('input', { type: 'number', min: 0, max: 100, class: 'short', 'aria-label': `Weight of ${label}`, value: wanted.get(server) ?? now });
    const slider = el('input', { type: 'range', min: 0, max: 100, 'aria-label': `Weight of ${label}, slider`, value: wanted.get(server) ?? now });
    const take = (value) => {
      const given = Math.min(100, Math.max(0, Number(value) || 0));
      number.value = slider.value = given;
      if (given === now) wanted.delete(server); else wanted.set(server, given);
      apply.disabled = !wanted.size;
      told.textContent = wanted.size ? `${wanted.size} to change` : '';
    };
    [number, slider].forEach((input) => input.addEventListener('input', () => take(input.value)));
    if (!session.may('operate')) number.disabled = slider.disabled = true;
    const { address, port } = server;
    return [el('span', { class: 'pair' }, slider, number), !session.may('operate') ? '' : now === 0 ? button('Serve again', () => send([{ address, port: port ?? 0, weight: 100 }]), { kind: 'small', 'aria-label': `Have ${label} serve again` }) : button('Drain', () => send([{ address, port: port ?? 0, weight: 0 }]), { kind: 'small', 'aria-label': `Drain ${label}` })];
  };
  const draw = () => {
    const found = servers.filter((each) => `${endpoint(each)} ${each.zone ?? ''} ${each.rack ?? ''}`.includes(search.value));
    const rows = found.slice(0, 100).map((server) => [server, row(server)]);
    place.replaceChildren(table('Weights', [
      { title: 'Server', cell: ([server]) => endpoint(server) }, { title: 'Zone', cell: ([server]) => server.zone ?? '–' }, { title: 'Rack', cell: ([server]) => server.rack ?? '–' },
      { title: 'Weight', cell: ([, [control]]) => control }, { title: '', cell: ([, [, act]]) => act },
    ], rows), found.length > 100 ? el('p', { class: 'muted' }, `100 of ${found.length} are shown: search for others`) : '');
  };
  const apply = button('Review weights', () => send([...wanted].map(([{ address, port }, weight]) => ({ address, port: port ?? 0, weight }))), { kind: 'primary', disabled: true });
  search.addEventListener('input', draw);
  draw();
  return el('section', { class: 'panel' }, el('h2', null, 'Weights'), servers.length > 10 ? search : null, place, wrong, session.may('operate') ? el('div', { class: 'pair' }, apply, told) : null);
}
