// Misspelled fields. protobufjs leaves out what it does not know, so a request would silently be another one.

/**
 * Raises a TypeError that names the first field of an object that its message does not have.
 *
 * @param {object} types the loaded package, by message name.
 * @param {string} name of the message.
 */
export function checkFields(types, name, object, path = '') {
  const fields = types[name].type.field;
  for (const [key, value] of Object.entries(object)) {
    const field = fields.find((each) => each.name === key);
    if (field === undefined) {
      const names = fields.map((each) => each.name).join(', ');
      throw new TypeError(`${path}${key}: ${name} has no such field; it has ${names}`);
    }
    const inner = field.typeName.split('.').at(-1);
    if (field.type !== 'TYPE_MESSAGE' || !(inner in types)) continue;
    for (const part of [value].flat()) checkFields(types, inner, part, `${path}${key}.`);
  }
}
