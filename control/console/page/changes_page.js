// The change set: what is to be applied together, all or none.

import { add, clear, drop, pending, plan, reviewed } from './changeset.js';
import { diff } from './diff.js';
import { button, el, empty, link, table } from './dom.js';
import { one } from './format.js';

export async function changesPage() {
  const page = el('section');
  const draw = async () => {
    const edits = pending();
    if (!edits.length) {
      page.replaceChildren(el('h1', null, 'Change set'), empty('There is nothing in it. “Add to the change set” on an object’s page puts edits here, to be applied together.'));
      return;
    }
    const result = el('div', { 'aria-live': 'polite' }, 'checking…');
    const wrong = (error) => result.replaceChildren(el('div', { class: 'faults' }, el('p', null, error.message), error.errors.map((each) => el('p', null, each.text.replace(/^request: /, '')))));
    page.replaceChildren(el('h1', null, 'Change set'),
      table('Edits', [
        { title: 'Object', cell: (edit) => (edit.op === 'delete' ? `${one(edit.kind)} ${edit.name}` : link(`#/objects/${edit.kind}/${edit.name}`, `${one(edit.kind)} ${edit.name}`)) },
        { title: 'Edit', cell: ({ op }) => op },
        { title: '', cell: (edit) => button('Take out', () => { drop(edit); draw(); }, { kind: 'small', 'aria-label': `Take ${edit.name} out` }) },
      ], edits),
      el('h2', null, 'What they do together'), result,
      el('div', { class: 'actions' }, button('Review and apply', async () => {
        const made = edits.map((each) => ({ ...each }));
        try {
          const outcome = await reviewed(made, { keepable: false });
          if (outcome === true || outcome === 'theirs') clear(); else { clear(); made.forEach(add); }
          draw();
        } catch (error) { wrong(error); }
      }, { kind: 'primary' }), button('Discard all', () => { clear(); draw(); })));
    try { result.replaceChildren(diff((await plan(edits)).changes)); } catch (error) { wrong(error); }
  };
  await draw();
  return page;
}
