// The page that asks for an access key.

import { h } from '/console/dom.js';
import { ask } from '/console/host.js';
import { choices } from '/console/choices.js';
import { t } from '/console/words.js';

function draw() {
  document.title = `${t('signIn')} · thaw`;
  const id = h('input', {
    id: 'id',
    name: 'id',
    required: true,
    autocomplete: 'username',
    spellcheck: 'false',
    autocapitalize: 'off',
  });
  const secret = h('input', {
    id: 'secret',
    name: 'secret',
    type: 'password',
    required: true,
    autocomplete: 'current-password',
  });
  const problem = h('p', { class: 'problem', role: 'alert', id: 'problem' });
  const button = h('button', { type: 'submit', class: 'wide' }, t('signIn'));
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    button.textContent = t('signingIn');
    problem.textContent = '';
    try {
      await ask('POST', 'session', { accessKeyId: id.value.trim(), accessKeySecret: secret.value.trim() });
      location.replace('/console/');
    } catch (error) {
      problem.textContent = error.message;
      button.disabled = false;
      button.textContent = t('signIn');
      secret.select();
    }
  };
  document
    .getElementById('bar')
    .replaceChildren(
      h('span', { class: 'brand' }, h('img', { src: '/console/icon.svg', alt: '', width: 22, height: 22 }), 'thaw'),
      h('span', { class: 'spread' }),
      ...choices(draw),
    );
  document
    .getElementById('main')
    .replaceChildren(
      h(
        'form',
        { class: 'card sign-in', onsubmit: submit },
        h('h1', {}, t('signInTitle')),
        h('label', { for: 'id' }, t('keyId')),
        id,
        h('label', { for: 'secret' }, t('keySecret')),
        secret,
        problem,
        button,
        h('p', { class: 'hint' }, t('keyHint')),
      ),
    );
  id.focus();
}

draw();
