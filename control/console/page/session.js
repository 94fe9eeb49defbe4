// Who has signed in: the token, held for this tab alone (sessionStorage), and what its role may do.

const KEY = 'paifang-token';
const RANKS = { read: 0, operate: 1, admin: 2 };
const session = { token: sessionStorage.getItem(KEY), who: null, ended: '' };
export const changes = new EventTarget();

export const token = () => session.token;
export const who = () => session.who;
export const ended = () => session.ended;
// Whether the role suffices. The server asks again, whatever is said here.
export const may = (role) => RANKS[session.who?.role] >= RANKS[role];

export function begin(secret, description) {
  session.token = secret;
  session.who = description;
  session.ended = '';
  sessionStorage.setItem(KEY, secret);
  changes.dispatchEvent(new Event('begun'));
}

export function end(why = '') {
  session.token = null;
  session.who = null;
  session.ended = why;
  sessionStorage.clear();
  changes.dispatchEvent(new Event('ended'));
}
