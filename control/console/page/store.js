// The configuration as it stands, read once and kept up by what /v1/watch tells; the API's document, read once.

import { get, send } from './api.js';
import { learn } from './diff.js';
import { live } from './live.js';
import { Schemas } from './schema.js';

export const KINDS = ['instances', 'listeners', 'rules', 'backend_services', 'server_groups', 'availability_groups', 'certificates', 'ca_certificates', 'authentications', 'access_lists', 'redirect_maps', 'nodes'];

export const store = new EventTarget();
let reading = null;
let described = null;

export const configuration = () => (reading ??= load().catch((error) => { reading = null; throw error; }));
export const schemas = () => (described ??= get('openapi.json').then((document) => {
  const made = new Schemas(document);
  for (const kind of KINDS) learn(kind, made.fields(kind));
  return made;
}).catch((error) => { described = null; throw error; }));

async function load() {
  const response = await send('GET', 'config');
  const document = await response.json();
  const objects = Object.fromEntries(KINDS.map((kind) => [kind, new Map((document[kind] ?? []).map((each) => [each.name, each]))]));
  return { version: Number((response.headers.get('ETag') ?? '"0"').replaceAll('"', '')), objects };
}

async function told(changed) {
  store.dispatchEvent(new CustomEvent('changed', { detail: changed }));
}

live.addEventListener('reset', async ({ detail }) => {
  const before = reading && await reading.catch(() => null);
  if (before?.version === detail.version) return;
  reading = null;
  told({ version: detail.version, changes: null });
});

live.addEventListener('version', async ({ detail }) => {
  const held = reading && await reading.catch(() => null);
  if (held && detail.version > held.version) {
    for (const { kind, name, new: item } of detail.changes) {
      if (item === null) held.objects[kind].delete(name);
      else held.objects[kind].set(name, item);
    }
    held.version = detail.version;
  }
  told(detail);
});

export function forget() {
  reading = null;
}

// What a request has changed is known at once, whether or not the stream is there.
export function after({ version, changes }, who) {
  live.dispatchEvent(new CustomEvent('version', { detail: { version, changes, author: who, comment: '' } }));
}
