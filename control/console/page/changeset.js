// Edits that are to be made together: kept for this tab until they are applied, all or none (POST /v1/changes).

import { ask, name as escaped, read } from './api.js';
import { button, el, say } from './dom.js';
import { dialog } from './dialog.js';
import { diff, differences, summary } from './diff.js';
import { one } from './format.js';
import { same } from './schema.js';
import { after } from './store.js';
import * as session from './session.js';

const KEY = 'paifang-changes';
export const changeset = new EventTarget();
let edits = JSON.parse(sessionStorage.getItem(KEY) ?? '[]');
session.changes.addEventListener('ended', () => keep([]));

function keep(made) {
  edits = made;
  if (made.length) sessionStorage.setItem(KEY, JSON.stringify(made));
  else sessionStorage.removeItem(KEY);
  changeset.dispatchEvent(new Event('changed'));
}

export const pending = () => edits;
export const pendingOf = (kind, name) => edits.find((each) => each.kind === kind && each.name === name);
export const drop = (edit) => keep(edits.filter((each) => each !== edit));
export const clear = () => keep([]);

// An edit: {op, kind, name, object, if_match, before}. One of the same object takes the place of what there was.
export function add(edit) {
  const held = pendingOf(edit.kind, edit.name);
  const op = held?.op === 'create' && edit.op === 'update' ? 'create' : edit.op;
  const rest = edits.filter((each) => each !== held);
  if (held?.op === 'create' && edit.op === 'delete') keep(rest);
  else keep([...rest, { ...edit, op, if_match: op === 'create' ? undefined : held?.if_match ?? edit.if_match, before: held?.before ?? edit.before }]);
}

const document = (made) => ({ changes: made.map(({ op, kind, name, object, if_match }) => ({ op, kind, name, ...(op === 'delete' ? {} : { object }), ...(if_match ? { if_match } : {}) })) });
export const plan = (made) => ask('POST', 'changes', { query: { dry_run: 1 }, body: document(made) });

// Show what `made` would do, and do it if that is what is wanted. True if it is done, 'kept' if it is in the change set.
// Throws ApiError with what is wrong with the plan, for the form to show.
export async function review(made, { keepable = true } = {}) {
  const planned = await plan(made);
  return dialog(planned.changes.length ? 'Review the change' : 'Nothing would change', (close) => {
    const comment = el('input', { type: 'text', name: 'comment', maxlength: 500, placeholder: 'kept with the version', 'aria-label': 'Comment' });
    const wrong = el('div', { class: 'faults', role: 'alert', hidden: true });
    const apply = async ({ target }) => {
      target.disabled = true;
      try {
        const done = await ask('POST', 'changes', { body: document(made), query: { comment: comment.value } });
        after(done, session.who().name);
        say(`applied as version ${done.version}`);
        close(true);
      } catch (error) {
        target.disabled = false;
        wrong.hidden = false;
        wrong.replaceChildren(el('p', null, error.message), ...error.errors.map((each) => el('p', null, each.text)));
        if (error.status === 412) wrong.append(await conflict(made, close));
      }
    };
    return [
      el('p', { class: 'muted' }, `${summary(planned.changes)}; version ${planned.version} becomes ${planned.version + 1}, on all nodes at once.`),
      el('div', { class: 'planned', tabindex: '0', role: 'region', 'aria-label': 'What changes' }, diff(planned.changes)), wrong,
      planned.changes.length ? el('div', { class: 'field' }, el('label', null, 'Comment ', comment)) : null,
      el('div', { class: 'actions' },
        planned.changes.length ? button('Apply', apply, { kind: 'primary', 'data-first': true }) : null,
        planned.changes.length && keepable ? button('Add to the change set', () => { made.forEach(add); close('kept'); say('added to the change set'); }) : null,
        button('Back', () => close(null))),
    ];
  }, { wide: true });
}

// Somebody else has changed one of the objects: what they did, what this edit does, and how to go on.
export async function conflict(made, close) {
  const place = el('div', { class: 'conflict' });
  for (const edit of made.filter((each) => each.if_match)) {
    const now = await read(`${edit.kind}/${escaped(edit.name)}`).catch(() => null);
    if (now?.etag === edit.if_match) continue;
    const title = el('h3', null, `${one(edit.kind)} ${edit.name}`);
    if (!now) {
      place.append(title, el('p', null, 'It has been deleted meanwhile.'), button('Create it again', () => { edit.op = 'create'; delete edit.if_match; close?.('again'); }));
      continue;
    }
    const merged = { ...now.document };
    for (const name of new Set([...Object.keys(edit.before ?? {}), ...Object.keys(edit.object ?? {})])) {
      if (same(edit.before?.[name], edit.object?.[name])) continue;
      if (edit.object[name] === undefined) delete merged[name];
      else merged[name] = edit.object[name];
    }
    const line = (path, old, next) => el('div', { class: 'difference' }, el('span', { class: 'path' }, path), el('span', { class: 'values' }, el('del', null, JSON.stringify(old) ?? 'default'), ' → ', el('ins', null, JSON.stringify(next) ?? 'default')));
    place.append(title,
      el('h4', null, 'What others have changed meanwhile'), ...differences(edit.before ?? {}, now.document).map((each) => line(...each)),
      el('h4', null, 'What you change'), ...differences(edit.before ?? {}, edit.object ?? {}).map((each) => line(...each)),
      el('div', { class: 'actions' },
        edit.op === 'delete' ? null : button('Put my fields into theirs', () => { Object.assign(edit, { object: merged, if_match: now.etag, before: now.document }); close?.('again'); }, { kind: 'primary' }),
        button('Keep theirs', () => close?.('theirs'))));
  }
  return place;
}

// Review until it is done or given up; where others came in between, once more with what was chosen.
export async function reviewed(made, options) {
  for (;;) {
    let outcome;
    try {
      outcome = await review(made, options);
    } catch (error) {
      if (error.status !== 412) throw error;
      outcome = await dialog('Another change came in between', (close) => {
        const place = el('div', null, 'reading…');
        conflict(made, close).then((node) => place.replaceChildren(node, el('div', { class: 'actions' }, button('Back', () => close(null)))));
        return [el('p', null, error.message), place];
      }, { wide: true });
    }
    if (outcome !== 'again') return outcome;
  }
}
