// The API by fetch. What it refuses is thrown as ApiError, with all that it says; 401 ends the session.

import * as session from './session.js';

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `the API answered with ${status}`);
    this.status = status;
    this.problem = problem;
    this.errors = problem.errors ?? [];
  }
}

// Relative, so that the console may stand below another path of a reverse proxy.
const place = (path, query) => {
  const url = new URL(`../v1/${path}`, document.baseURI.replace(/[?#].*$/, ''));
  for (const [name, value] of Object.entries(query ?? {})) if (value !== undefined && value !== null && value !== '') url.searchParams.set(name, value);
  return url;
};

export async function send(method, path, { body, query, headers = {}, signal, token = session.token() } = {}) {
  let response;
  try {
    response = await fetch(place(path, query), {
      method, signal, cache: 'no-store', credentials: 'omit', redirect: 'error',
      headers: { Authorization: `Bearer ${token}`, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, { detail: 'the control plane does not answer' });
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const error = new ApiError(response.status, problem);
  if (response.status === 401 && token === session.token()) session.end(error.message);
  throw error;
}

export async function ask(method, path, options) {
  const response = await send(method, path, options);
  return response.status === 204 ? null : response.json();
}

export const get = (path, query, signal) => ask('GET', path, { query, signal });

// An object and its tag.
export async function read(path, signal) {
  const response = await send('GET', path, { signal });
  return { document: await response.json(), etag: response.headers.get('ETag') };
}

export const name = encodeURIComponent;
