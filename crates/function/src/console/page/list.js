// All functions. A row stays the same element while its function is there: what has the focus keeps it.

import { accelerationSwitch } from '/console/acceleration.js';
import { h, put, set } from '/console/dom.js';
import { many, number, t, time } from '/console/words.js';

/** The address of a function's page. */
export const addressOf = (kind, { service, function: name }) =>
  `#/${kind}/${service ? `${encodeURIComponent(service)}/` : ''}${encodeURIComponent(name)}`;

/** What a function's instances do, in a word: `[kind, text]`. */
export function stateOf({ instances }) {
  if (instances.busy > 0) return ['busy', t('busy')];
  if (instances.starting > 0) return ['starting', t('starting')];
  return instances.running > 0 ? ['idle', t('idle')] : ['zero', t('zero')];
}

function row(facts) {
  const cell = (key, ...children) => h('td', { 'data-label': t(key) }, ...children);
  const state = h('span', { class: 'state' });
  const image = h('code', { class: 'image' });
  const instances = h('span', { class: 'whole' });
  const invocations = h('span');
  const errors = h('span', { class: 'errors' });
  const cold = h('span');
  const acceleration = accelerationSwitch(facts.name);
  const node = h(
    'tr',
    {},
    h('th', { scope: 'row' }, h('a', { href: addressOf('functions', facts) }, facts.name)),
    cell('state', state),
    cell('image', image),
    cell('instances', instances),
    cell('invocations', h('span', {}, invocations, errors)),
    cell('coldStart', cold),
    cell('acceleration', acceleration.node),
  );
  const update = (now) => {
    const [kind, text] = stateOf(now);
    set(state, 'data-state', kind);
    put(state, text);
    put(image, now.image.replace(/@sha256:([0-9a-f]{8})[0-9a-f]*/, '@$1'));
    set(image, 'title', now.image);
    const { busy, running } = now.instances;
    put(instances, busy > 0 ? t('busyOf', { busy, running }) : number(running));
    put(invocations, number(now.invocations));
    put(errors, now.errors > 0 ? ` (${many(now.errors, 'oneError', 'errors')})` : '');
    put(cold, time(now.lastColdStart));
    acceleration.update(now.acceleration);
  };
  return { node, update };
}

/** The view. */
export function listView() {
  const rows = new Map();
  let known = null;
  const body = h('tbody');
  const count = h('span', { class: 'count' });
  const filter = h('input', {
    type: 'search',
    'aria-label': t('filter'),
    placeholder: t('filter'),
    oninput: () => update(known),
  });
  const head = ['name', 'state', 'image', 'instances', 'invocations', 'coldStart', 'acceleration'];
  const table = h(
    'table',
    { class: 'functions', hidden: true },
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        head.map((key) => h('th', { scope: 'col' }, t(key))),
      ),
    ),
    body,
  );
  const empty = h('div', { class: 'empty', hidden: true });
  const loading = h('p', { class: 'hint' }, t('loading'));
  const node = h(
    'section',
    { 'aria-labelledby': 'title' },
    h(
      'div',
      { class: 'head' },
      h('h1', { id: 'title' }, t('functions')),
      count,
      h('span', { class: 'spread' }),
      filter,
      h('a', { class: 'button', href: '#/new' }, t('create')),
    ),
    loading,
    empty,
    h('div', { class: 'frame' }, table),
  );

  function update(list) {
    if (list === null) return;
    known = list;
    const text = filter.value.trim().toLowerCase();
    const shown = list.filter((it) => `${it.name} ${it.image}`.toLowerCase().includes(text));
    const names = new Set(shown.map((it) => it.name));
    for (const [name, it] of rows) {
      if (names.has(name)) continue;
      it.node.remove();
      rows.delete(name);
    }
    shown.forEach((facts, index) => {
      if (!rows.has(facts.name)) rows.set(facts.name, row(facts));
      const it = rows.get(facts.name);
      if (body.children[index] !== it.node) body.insertBefore(it.node, body.children[index] ?? null);
      it.update(facts);
    });
    loading.hidden = true;
    table.hidden = shown.length === 0;
    empty.hidden = shown.length > 0;
    filter.hidden = list.length === 0;
    put(count, list.length > 0 ? many(list.length, 'oneFunction', 'count') : '');
    if (shown.length === 0) {
      empty.replaceChildren(
        ...(list.length > 0 ? [h('p', {}, t('noneFound'))] : [h('h2', {}, t('none')), h('p', {}, t('noneHint'))]),
      );
    }
  }
  return { node, title: t('functions'), update };
}
