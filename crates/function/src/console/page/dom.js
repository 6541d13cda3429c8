// Elements. Whatever comes from the host gets into the document here, as text.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

/** An element: `on…` are listeners, `class` and the like attributes; children are nodes and texts. */
export function h(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked' || name === 'disabled') node[name] = value;
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  return fill(node, children);
}

/** An element of a drawing. */
export function s(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return fill(node, children);
}

/** Sets a text, if it is another: screen readers and selections stay where they are. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets an attribute, if it is another; `null` takes it away. */
export function set(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** What cannot go on without the user's word. Resolves to whether it was given. */
export function confirm(question, detail, yes, no) {
  return new Promise((resolve) => {
    const dialog = h(
      'dialog',
      {
        'aria-labelledby': 'question',
        onclose: () => {
          dialog.remove();
          resolve(dialog.returnValue === 'yes');
        },
      },
      h(
        'form',
        { method: 'dialog' },
        h('h2', { id: 'question' }, question),
        h('p', {}, detail),
        h(
          'div',
          { class: 'actions' },
          h('button', { value: 'no', class: 'plain', autofocus: true }, no),
          h('button', { value: 'yes', class: 'danger' }, yes),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Says something to whoever does not see the page. */
export function say(text) {
  const live = document.getElementById('live');
  if (live) live.textContent = text;
}
