// Making a function, and changing it. The host says what is wrong, and names the field.

import { h, put, say, set } from '/console/dom.js';
import { Refusal, ask, pathOf } from '/console/host.js';
import { addressOf } from '/console/list.js';
import { t } from '/console/words.js';

/** Names of fields in the host's sentences, where they are not those of the form. */
const ALSO = {
  serviceName: 'service',
  service: 'service',
  function: 'functionName',
  entrypoint: 'command',
  caPort: 'port',
  memorySize: 'memorySize',
  accelerationType: 'acceleration',
  'the image': 'image',
  instanceConcurrency: 'concurrency',
  webServerMode: 'server',
};

const lines = (text) =>
  text
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean);
const whole = (text) => (text.trim() === '' ? undefined : Number.isNaN(Number(text)) ? text : Number(text));

/** What is wrong where it is found in the page itself. */
class Wrong extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

function environmentOf(text) {
  const pairs = {};
  text.split('\n').forEach((line, index) => {
    if (line.trim() === '') return;
    const at = line.indexOf('=');
    if (at < 0) throw new Wrong('environment', t('environmentWrong', { n: index + 1 }));
    pairs[line.slice(0, at).trim()] = line.slice(at + 1);
  });
  return pairs;
}

/** The field that a sentence begins with, or `null`. */
function fieldOf(message, fields) {
  if (message.startsWith('the image')) return 'image';
  const path = /^[A-Za-z.]+/.exec(message)?.[0] ?? '';
  const names = path.split('.').filter(Boolean).reverse();
  if (names[0] === 'environmentVariables') return 'environment';
  if (names[0] === 'internetAccess') return 'internet';
  for (const name of names) {
    const field = ALSO[name] ?? (name === 'command' && names[1] === 'customContainerConfig' ? 'command' : name);
    if (fields.has(field)) return field;
  }
  return null;
}

function argumentsOf(value) {
  if (Array.isArray(value)) return value;
  try {
    const list = JSON.parse(value || '[]');
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}

/** What the form shows of a function as the API has it. */
function valuesOf(shown, service) {
  const container = shown.customContainerConfig;
  const flat = !service;
  return {
    description: shown.description,
    image: container.image,
    acceleration: container.accelerationType !== 'None',
    server: container.webServerMode !== false,
    port: flat ? container.port : shown.caPort,
    command: argumentsOf(flat ? container.entrypoint : container.command).join('\n'),
    args: argumentsOf(flat ? container.command : container.args).join('\n'),
    memorySize: shown.memorySize,
    diskSize: shown.diskSize,
    timeout: shown.timeout,
    concurrency: shown.instanceConcurrency,
    internet: shown.internetAccess !== false,
    environment: Object.entries(shown.environmentVariables ?? {})
      .map(([key, value]) => `${key}=${value}`)
      .join('\n'),
  };
}

/** What the API is told. */
function bodyOf(value, flat, isNew) {
  const container = { image: value('image'), accelerationType: value('acceleration') ? 'Default' : 'None' };
  container.webServerMode = value('server');
  container[flat ? 'entrypoint' : 'command'] = lines(value('command'));
  container[flat ? 'command' : 'args'] = lines(value('args'));
  const body = {
    description: value('description'),
    timeout: whole(value('timeout')),
    memorySize: whole(value('memorySize')),
    diskSize: whole(value('diskSize')),
    instanceConcurrency: whole(value('concurrency')),
    cpu: whole(value('cpu')),
    internetAccess: value('internet'),
    environmentVariables: environmentOf(value('environment')),
    customContainerConfig: container,
  };
  if (flat) container.port = whole(value('port'));
  else body.caPort = whole(value('port'));
  if (isNew)
    Object.assign(body, { functionName: value('functionName'), runtime: 'custom-container', handler: 'index.handler' });
  return body;
}

/** The view; `name` of the function that is changed, or `null`. */
export function formView(name) {
  const fields = new Map();
  const field = (id, key, input, { hint, broad } = {}) => {
    const problem = h('p', { class: 'problem', id: `${id}-problem`, role: 'alert' });
    set(input, 'id', id);
    set(input, 'aria-describedby', [hint && `${id}-hint`, `${id}-problem`].filter(Boolean).join(' '));
    fields.set(id, { input, problem });
    const label = h('label', { for: id }, t(key));
    const isCheck = input.type === 'checkbox';
    return h(
      'div',
      { class: `field${broad ? ' broad' : ''}${isCheck ? ' check' : ''}` },
      isCheck ? [input, label] : [label, input],
      hint && h('p', { class: 'hint', id: `${id}-hint` }, t(hint)),
      problem,
    );
  };
  const text = (options = {}) => h('input', { type: 'text', spellcheck: 'false', autocomplete: 'off', ...options });
  const area = (rows) => h('textarea', { rows, spellcheck: 'false', class: 'code' });
  const check = () => h('input', { type: 'checkbox', checked: true });
  const amount = (value) => text({ inputmode: 'decimal', value });
  const group = (key, ...parts) => h('fieldset', {}, h('legend', {}, t(key)), h('div', { class: 'fields' }, ...parts));

  const names = name
    ? []
    : [
        field('service', 'service', text({ list: 'services' }), { hint: 'serviceHint' }),
        field('functionName', 'name', text({ required: true })),
      ];
  const problem = h('p', { class: 'problem', role: 'alert', id: 'form-problem' });
  const button = h('button', { type: 'submit' }, t(name ? 'save' : 'create'));
  const services = h('datalist', { id: 'services' });
  const form = h(
    'form',
    { class: 'card', novalidate: true, onsubmit: submit },
    group(
      'container',
      ...names,
      field('image', 'image', text({ required: true, placeholder: 'registry.example.com/name:tag' }), {
        hint: 'imageHint',
        broad: true,
      }),
      field('acceleration', 'acceleration', check(), { hint: 'accelerationHint', broad: true }),
      field('command', 'command', area(2), { hint: 'listHint' }),
      field('args', 'args', area(2), { hint: 'listHint' }),
      field('server', 'server', check(), { hint: 'serverHint', broad: true }),
      field('port', 'port', amount('9000'), { hint: 'portHint' }),
    ),
    group(
      'resources',
      field('memorySize', 'memorySize', amount('128')),
      field('cpu', 'cpu', amount(''), { hint: 'cpuHint' }),
      field('diskSize', 'diskSize', amount('512')),
      field('timeout', 'timeout', amount('60')),
      field('concurrency', 'concurrency', amount('1')),
    ),
    group(
      'more',
      field('description', 'description', text(), { broad: true }),
      field('environment', 'environment', area(4), { hint: 'environmentHint', broad: true }),
      field('internet', 'internet', check(), { broad: true }),
    ),
    services,
    problem,
    h(
      'div',
      { class: 'actions' },
      h('a', { class: 'button plain', href: name ? addressOf('functions', name) : '#/' }, t('cancel')),
      button,
    ),
  );

  const value = (id) => {
    const { input } = fields.get(id);
    return input.type === 'checkbox' ? input.checked : input.value.trim();
  };
  const show = (error) => {
    const id = error.field ?? (error instanceof Refusal ? fieldOf(error.message, fields) : null);
    const at = id && fields.get(id);
    put(at ? at.problem : problem, error.message);
    if (!at) return;
    set(at.input, 'aria-invalid', 'true');
    at.input.focus();
  };
  const clear = () => {
    problem.textContent = '';
    for (const { input, problem: own } of fields.values()) {
      own.textContent = '';
      set(input, 'aria-invalid', null);
    }
  };
  async function make(target, body) {
    const path = pathOf(target).replace(/\/[^/]*$/, '');
    try {
      await ask('POST', path, body);
    } catch (error) {
      if (error.code !== 'ServiceNotFound') throw error;
      await ask('POST', '2016-08-15/services', { serviceName: target.service });
      await ask('POST', path, body);
    }
  }
  async function submit(event) {
    event.preventDefault();
    clear();
    button.disabled = true;
    put(button, t(name ? 'saving' : 'creating'));
    try {
      const service = name ? name.service : value('service');
      const own = name ? name.function : value('functionName');
      const target = name ?? { service, function: own, name: service ? `${service}/${own}` : own };
      const body = bodyOf(value, !service, !name);
      if (name) await ask('PUT', pathOf(target), body);
      else await make(target, body);
      say(t(name ? 'saved' : 'created', target));
      location.hash = addressOf('functions', target);
    } catch (error) {
      show(error);
    }
    button.disabled = false;
    put(button, t(name ? 'save' : 'create'));
  }
  async function load() {
    try {
      if (!name) {
        const { services: all } = await ask('GET', '2016-08-15/services?limit=100');
        services.append(...all.map((it) => h('option', { value: it.serviceName })));
        return;
      }
      const shown = await ask('GET', pathOf(name));
      for (const [id, now] of Object.entries(valuesOf(shown, name.service))) {
        const { input } = fields.get(id);
        if (input.type === 'checkbox') input.checked = now;
        else input.value = now ?? '';
      }
      set(fields.get('cpu').input, 'placeholder', shown.cpu);
    } catch (error) {
      put(problem, error.message);
    }
  }
  load();
  const title = name ? t('editTitle', name) : t('create');
  const node = h(
    'section',
    { class: 'narrow', 'aria-labelledby': 'title' },
    h('p', { class: 'crumb' }, h('a', { href: '#/' }, `← ${t('back')}`)),
    h('h1', { id: 'title' }, title),
    form,
  );
  return { node, title };
}
