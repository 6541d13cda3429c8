// The page: what is at the top, and the view that the address names.
//
//   #/                            the list
//   #/new                         a form
//   #/functions/SERVICE/NAME      a function (#/functions/NAME for one without a service)
//   #/edit/SERVICE/NAME           its form

import { choices } from '/console/choices.js';
import { h, put } from '/console/dom.js';
import { formView } from '/console/form.js';
import { functionView } from '/console/function.js';
import { ask, follow, session } from '/console/host.js';
import { listView } from '/console/list.js';
import { t } from '/console/words.js';

const main = document.getElementById('main');
const lost = h('p', { class: 'lost', role: 'status', hidden: true });

let who = null;
let functions = null;
let view = null;

function bar() {
  put(document.getElementById('skip'), t('skip'));
  put(lost, t('lost'));
  const signOut = async () => {
    await ask('DELETE', 'session');
    location.replace('/console/sign-in');
  };
  document.getElementById('bar').replaceChildren(
    h(
      'a',
      { class: 'brand', href: '#/' },
      h('img', { src: '/console/icon.svg', alt: '', width: 22, height: 22 }),
      'thaw',
    ),
    h('span', { class: 'place' }, who.region),
    h('span', { class: 'spread' }),
    ...choices(() => {
      bar();
      show();
    }),
    who.key && h('span', { class: 'key', title: who.key }, who.key),
    who.key && h('button', { class: 'plain', id: 'sign-out', onclick: signOut }, t('signOut')),
  );
}

function nameIn(parts) {
  const [service, name] = parts.length > 1 ? parts : ['', parts[0]];
  return { service, function: name, name: service ? `${service}/${name}` : name };
}

function viewOf(address) {
  const [kind, ...rest] = address
    .replace(/^#?\/?/, '')
    .split('/')
    .map(decodeURIComponent);
  switch (kind) {
    case 'new':
      return formView(null);
    case 'functions':
      return functionView(nameIn(rest));
    case 'edit':
      return formView(nameIn(rest));
    default:
      return listView();
  }
}

function show() {
  view?.close?.();
  view = viewOf(location.hash);
  document.title = `${view.title} · thaw`;
  main.replaceChildren(lost, view.node);
  if (functions) view.update?.(functions);
}

window.addEventListener('hashchange', () => {
  show();
  window.scrollTo(0, 0);
  main.focus();
});
document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});

who = await session();
bar();
show();
follow(
  (list) => {
    functions = list;
    view.update?.(list);
  },
  (broken) => {
    lost.hidden = !broken;
  },
);
