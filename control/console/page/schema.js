// The model as the API's OpenAPI document has it, and what forms and references need of it.

const BOUNDS = /from (-?[\d.]+) to (-?[\d.]+)(?: (\S+))?/;
const CLASSES = { instances: 'Instance', listeners: 'Listener', rules: 'Rule', backend_services: 'BackendService', server_groups: 'ServerGroup', availability_groups: 'AvailabilityGroup', certificates: 'Certificate', ca_certificates: 'CaCertificate', authentications: 'Authentication', access_lists: 'AccessList', redirect_maps: 'RedirectMap', nodes: 'Node' };
// What stands for other objects, or for paths on somebody's own machine; the API takes neither from here.
const LEFT_OUT = { listeners: ['servers', 'domains'], certificates: ['chain_file', 'key_file'], ca_certificates: ['bundle_file', 'crl_file'] };

export class Schemas {
  constructor(document) {
    this.components = document.components.schemas;
  }

  // A field as forms want it: `type` is string, integer, number, boolean, choice, object, optional, list or pairs.
  field(name, schema, required) {
    const target = schema.$ref ? this.components[schema.$ref.split('/').at(-1)] : schema;
    const text = schema.description ?? '';
    const at = schema.$ref ? -1 : text.lastIndexOf(': ');
    const made = { name, required, meaning: at < 0 ? text : text.slice(0, at), expected: at < 0 ? '' : text.slice(at + 2), default: schema.default, schema: target };
    const [, , , unit] = BOUNDS.exec(made.expected) ?? [];
    made.unit = unit ?? '';
    if (target.enum) return { ...made, type: 'choice', options: target.enum };
    if (target.anyOf?.some((each) => each.const === false)) return { ...made, type: 'optional', inner: this.field(name, target.anyOf[0]) };
    if (target.type === 'array') return { ...made, type: 'list', item: this.field(name, target.items) };
    if (target.additionalProperties && target.type === 'object') return { ...made, type: 'pairs', most: target.maxProperties };
    if (target.type === 'object') return { ...made, type: 'object', fields: this.fieldsOf(target) };
    return { ...made, type: target.type ?? 'string', low: target.minimum, high: target.maximum, pattern: target.pattern, longest: target.maxLength, kind: target['x-paifang-kind'] };
  }

  fieldsOf(schema) {
    return Object.entries(schema.properties).map(([name, each]) => this.field(name, each, schema.required?.includes(name) ?? false));
  }

  // The fields of a kind but its name.
  fields(kind) {
    const schema = this.components[CLASSES[kind]];
    return this.fieldsOf(schema).filter(({ name }) => name !== 'name' && !LEFT_OUT[kind]?.includes(name));
  }

  about(kind) {
    return this.components[CLASSES[kind]].description ?? '';
  }

  // What an object names: [kind, name] of each.
  references(kind, object) {
    const found = [];
    const walk = (field, value) => {
      if (value === undefined || value === null || value === false) return;
      if (field.kind) { if (value) found.push([field.kind, value]); }
      else if (field.type === 'list') value.forEach((each) => walk(field.item, each));
      else if (field.type === 'optional') walk(field.inner, value);
      else if (field.type === 'object') field.fields.forEach((each) => walk(each, value[each.name]));
    };
    this.fields(kind).forEach((field) => walk(field, object[field.name]));
    return found;
  }

  // Who names it: [kind, name] of each.
  referrers(objects, kind, name) {
    const found = [];
    for (const [other, items] of Object.entries(objects)) {
      for (const item of items.values()) {
        if (this.references(other, item).some(([to, named]) => to === kind && named === name)) found.push([other, item.name]);
      }
    }
    return found;
  }
}

export const same = (one, other) => JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}
