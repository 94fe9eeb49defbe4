// Quantities as people read them. Null, which is "not counted here", is a dash.

const NONE = '–';
const scaled = (value, base, units) => {
  let at = 0;
  let left = value;
  while (Math.abs(left) >= base && at < units.length - 1) { left /= base; at += 1; }
  const digits = left === 0 || Math.abs(left) >= 100 ? 0 : Math.abs(left) >= 10 ? 1 : 2;
  return `${Number(left.toFixed(digits))} ${units[at]}`.trim();
};
const known = (value, text) => (value === null || value === undefined || Number.isNaN(value) ? NONE : text(value));

export const count = (value) => known(value, (each) => scaled(each, 1000, ['', 'k', 'M', 'G', 'T']));
export const whole = (value) => known(value, (each) => Math.round(each).toLocaleString('en'));
export const bytes = (value) => known(value, (each) => scaled(each, 1000, ['B', 'kB', 'MB', 'GB', 'TB', 'PB']));
export const bits = (bytesPerS) => known(bytesPerS, (each) => scaled(each * 8, 1000, ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s']));
export const perS = (value) => known(value, (each) => `${count(each)}/s`);
export const latency = (value) => known(value, (each) => (each < 0.001 ? `${Number((each * 1e6).toPrecision(3))} µs` : each < 1 ? `${Number((each * 1000).toPrecision(3))} ms` : `${Number(each.toPrecision(3))} s`));

export function duration(seconds) {
  return known(seconds, (each) => {
    if (each < 1) return `${Number(each.toFixed(1))} s`;
    for (const [unit, size] of [['d', 86400], ['h', 3600], ['min', 60]]) if (each >= 2 * size) return `${Math.floor(each / size)} ${unit}`;
    return `${Math.floor(each)} s`;
  });
}

const two = (number) => String(number).padStart(2, '0');
// Unix time in seconds, in this machine's zone.
export const moment = (at) => known(at, (each) => {
  const date = new Date(each * 1000);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(each)}`;
});
export const clock = (at) => {
  const date = new Date(at * 1000);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
};
export const ago = (at) => known(at, (each) => {
  const passed = Date.now() / 1000 - each;
  return passed < 0 ? `in ${duration(-passed)}` : `${duration(passed)} ago`;
});

export const words = (name) => name.replaceAll('_', ' ');
const KINDS = { instances: 'instance', listeners: 'listener', rules: 'rule', backend_services: 'backend service', server_groups: 'server group', availability_groups: 'availability group', certificates: 'certificate', ca_certificates: 'CA certificate', authentications: 'authentication', access_lists: 'access list', redirect_maps: 'redirect map', nodes: 'node' };
export const one = (kind) => KINDS[kind] ?? words(kind);
export const many = (kind) => (kind === 'ca_certificates' ? 'CA certificates' : words(kind));
export const title = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export const endpoint = ({ address, port }) => (address.startsWith('unix:') ? address : address.includes(':') ? `[${address}]:${port ?? 0}` : `${address}:${port ?? 0}`);
