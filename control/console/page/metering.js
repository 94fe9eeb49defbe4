// What listeners have used, by hour, day or month, and as CSV.

import { get, send } from './api.js';
import { button, el, say, table } from './dom.js';
import { bytes, whole } from './format.js';
import { configuration } from './store.js';

const COLUMNS = [['bytes_in', 'Bytes in', bytes], ['bytes_out', 'Bytes out', bytes], ['connections', 'Connections', whole], ['connections_max', 'At once', whole], ['requests', 'Requests', whole], ['requests_5xx', '5xx', whole]];
const requests = (row) => Object.entries(row).filter(([name]) => name.startsWith('requests_')).reduce((sum, [, value]) => sum + value, 0);
const iso = (date) => date.toISOString().slice(0, 10);

export async function metering({ signal }) {
  const { objects } = await configuration();
  const now = new Date();
  const labelled = (text, control) => el('label', null, `${text} `, control);
  const from = el('input', { type: 'date', value: iso(new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), 1))) });
  const to = el('input', { type: 'date', value: iso(new Date(now.getTime() + 86400e3)) });
  const by = el('select', null, ['day', 'hour', 'month'].map((each) => el('option', { value: each }, each)));
  const instance = el('select', null, el('option', { value: '' }, 'all'), [...objects.instances.keys()].map((each) => el('option', { value: each }, each)));
  const place = el('div');
  const wrong = el('p', { class: 'fault', role: 'alert' });
  const query = () => ({ from: from.value, to: to.value, by: by.value, instance: instance.value });
  async function draw() {
    wrong.textContent = '';
    try {
      const rows = (await get('metering', query(), signal)).rows.map((row) => ({ ...row, requests: requests(row) }));
      const sum = { time: 'Sum', instance: '', listener: '' };
      for (const [name] of COLUMNS) sum[name] = name === 'connections_max' ? null : rows.reduce((all, row) => all + row[name], 0);
      place.replaceChildren(table('Usage', [{ title: 'Time (UTC)', key: (row) => row.time, cell: (row) => row.time }, { title: 'Instance', key: (row) => row.instance, cell: (row) => row.instance }, { title: 'Listener', key: (row) => row.listener, cell: (row) => row.listener },
        ...COLUMNS.map(([name, title, shown]) => ({ title, number: true, key: (row) => row[name], cell: (row) => el('span', { title: row[name] === null ? null : String(row[name]) }, shown(row[name])) }))], rows.length ? [...rows.slice(0, 1000), sum] : [], { none: 'Nothing has been used in this time.' }),
      rows.length > 1000 ? el('p', { class: 'muted' }, `1,000 of ${rows.length} rows are shown; the CSV has them all.`) : '');
    } catch (error) { if (error.name !== 'AbortError') wrong.textContent = error.message; }
  }
  async function download() {
    wrong.textContent = '';
    try {
      const blob = await (await send('GET', 'metering', { query: { ...query(), format: 'csv' } })).blob();
      const url = URL.createObjectURL(blob);
      el('a', { href: url, download: `usage-${from.value}-${to.value}.csv` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60000);
      say('the CSV is downloaded');
    } catch (error) { wrong.textContent = error.message; }
  }
  [from, to, by, instance].forEach((input) => input.addEventListener('change', draw));
  await draw();
  return el('section', null, el('h1', null, 'Metering'), el('div', { class: 'filter' }, labelled('From', from), labelled('to, not included', to), labelled('by', by), labelled('instance', instance), button('Download CSV', download)), wrong, place);
}
