// The switch "Image acceleration", and how far it is.

import { h, put, say, set } from '/console/dom.js';
import { ask } from '/console/host.js';
import { fromNow, t } from '/console/words.js';

/** The host's words for what it does, and the page's. */
const DOING = {
  indexing: 'indexing',
  'merging layers': 'merging',
  'comparing layers': 'comparing',
  'completing the layers': 'completing',
  'guessing a working set': 'guessing',
  publishing: 'publishing',
  'recording a start': 'recording',
  'packing the working set': 'packing',
};

function detailOf(facts) {
  if (facts.status === 'Failed') {
    const { reason, again } = facts.failed ?? {};
    return reason ? `${reason} (${t('again', { when: fromNow(again) })})` : '';
  }
  if (facts.status === 'Ready') {
    if (facts.notRecorded) return t('notRecorded', facts.notRecorded);
    return facts.notPushed ? t('notPushed', { reason: facts.notPushed }) : '';
  }
  if (facts.status !== 'Preparing') return '';
  if (!facts.doing) return t('queued');
  const share =
    facts.totalBytes > 0 ? ` ${Math.min(100, Math.floor((facts.doneBytes / facts.totalBytes) * 100))}%` : '';
  return (DOING[facts.doing] ? t(DOING[facts.doing]) : facts.doing) + share;
}

/** The control of one function: `{ node, update(facts) }`. */
export function accelerationSwitch(name) {
  let status = null;
  const change = async (to) => {
    problem.textContent = '';
    control.disabled = true;
    try {
      const facts = await ask('POST', `acceleration?name=${encodeURIComponent(name)}&to=${to}`);
      update(facts.acceleration);
    } catch (error) {
      problem.textContent = error.message;
    }
    control.disabled = false;
  };
  const control = h(
    'button',
    {
      type: 'button',
      role: 'switch',
      class: 'switch',
      'aria-label': `${t('acceleration')}: ${name}`,
      'aria-checked': 'false',
      onclick: () => change(control.getAttribute('aria-checked') === 'true' ? 'off' : 'on'),
    },
    h('span', {}),
  );
  const word = h('span', { class: 'status' });
  const progress = h('progress', { max: 1, 'aria-label': t('acceleration'), hidden: true });
  const detail = h('span', { class: 'detail' });
  const retry = h(
    'button',
    {
      type: 'button',
      class: 'small',
      hidden: true,
      'aria-label': `${t('retry')}: ${name}`,
      onclick: () => change('retry'),
    },
    t('retry'),
  );
  const problem = h('span', { class: 'problem', role: 'alert' });
  const node = h('div', { class: 'acceleration' }, control, word, progress, retry, detail, problem);

  function update(facts) {
    if (status !== null && status !== facts.status)
      say(`${name}: ${t('acceleration')} – ${t(`status${facts.status}`)}`);
    status = facts.status;
    set(control, 'aria-checked', String(status !== 'None'));
    set(node, 'data-status', status);
    put(word, t(`status${status}`));
    put(detail, detailOf(facts));
    retry.hidden = status !== 'Failed' && !facts.notRecorded;
    progress.hidden = status !== 'Preparing';
    if (facts.totalBytes > 0) progress.value = Math.min(1, facts.doneBytes / facts.totalBytes);
    else progress.removeAttribute('value');
  }
  return { node, update };
}
