// What /v1/watch tells, as events of `live`: version, node, server, event, reset, and `state` when the stream comes or goes.
// EventSource cannot send the token, so the stream is read by fetch. It is begun again, later each time, from the last
// version that was told; a stream on which nothing comes, not even a heartbeat, is taken for broken.

import { send } from './api.js';
import * as session from './session.js';

const FIRST_MS = 500;
const LONGEST_MS = 15000;
const SILENT_MS = 40000; // the control plane says that it is there every 15 s

export const live = new EventTarget();
live.state = 'connecting';
let running = null;
let version = null;

function become(state, why = '') {
  if (live.state === state && live.why === why) return;
  live.state = state;
  live.why = why;
  live.dispatchEvent(new CustomEvent('state', { detail: { state, why } }));
}

function* events(text) {
  for (const block of text) {
    const event = { name: 'message', data: '' };
    for (const line of block.split('\n')) {
      const [, field, value] = /^(\w*):? ?(.*)$/.exec(line) ?? [];
      if (field === 'event') event.name = value;
      else if (field === 'data') event.data += value;
    }
    if (event.data) yield event;
  }
}

async function listen(stop) {
  const headers = version === null ? {} : { 'Last-Event-ID': String(version) };
  const cut = new AbortController();
  stop.addEventListener('abort', () => cut.abort(), { once: true });
  const response = await send('GET', 'watch', { headers, signal: cut.signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let timer = setTimeout(() => cut.abort(), SILENT_MS);
  become('live');
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => cut.abort(), SILENT_MS);
      const blocks = (rest + value).split('\n\n');
      rest = blocks.pop();
      for (const { name, data } of events(blocks)) {
        const detail = JSON.parse(data);
        if (name === 'version' || name === 'reset') version = detail.version;
        live.dispatchEvent(new CustomEvent(name, { detail }));
      }
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}

export async function begin() {
  running?.abort();
  const stop = new AbortController();
  running = stop;
  version = null;
  let wait = FIRST_MS;
  while (!stop.signal.aborted && session.token()) {
    const began = Date.now();
    let why = 'the stream has ended';
    try {
      await listen(stop.signal);
    } catch (error) {
      if (error.status) why = error.message;
      else if (error.name !== 'AbortError') why = 'the control plane does not answer';
    }
    if (stop.signal.aborted) return;
    become('lost', why);
    wait = Date.now() - began > 5000 ? FIRST_MS : Math.min(wait * 2, LONGEST_MS);
    await new Promise((resolve) => { setTimeout(resolve, wait * (0.75 + Math.random() / 2)); });
  }
}

export function end() {
  running?.abort();
  running = null;
  live.state = 'connecting';
}
