// Panels of a function's page that do something by themselves.

import { h } from '/console/dom.js';
import { fetched, pathOf } from '/console/host.js';
import { t } from '/console/words.js';

/** Characters of logs that stay on the page. */
const MAX_LOG = 200_000;

/** A part of a page with a title. */
export function panel(title, id, ...children) {
  return h('section', { class: 'card', 'aria-labelledby': id }, h('h2', { id }, title), ...children);
}

function decoded(text) {
  return new TextDecoder().decode(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
}

/** The form that invokes; `done` is called after each. */
export function invokePanel(name, done) {
  const event = h('textarea', { id: 'event', rows: 4, spellcheck: 'false', class: 'code' });
  const button = h('button', { type: 'submit' }, t('invoke'));
  const outcome = h('div', { class: 'outcome', role: 'status', 'aria-live': 'polite' });
  const show = (facts, body, log) =>
    outcome.replaceChildren(
      h(
        'p',
        { class: 'facts' },
        facts.filter(Boolean).map(([text, kind]) => h('span', { class: `tag ${kind}` }, text)),
      ),
      h('h3', {}, t('result')),
      h('pre', { id: 'result', tabindex: 0 }, body || t('empty')),
      ...(log ? [h('h3', {}, t('log')), h('pre', { id: 'tail', tabindex: 0 }, log)] : []),
    );
  const submit = async (submitted) => {
    submitted.preventDefault();
    button.disabled = true;
    outcome.replaceChildren(h('p', { class: 'hint' }, t('invoking')));
    try {
      const response = await fetched('POST', `${pathOf(name)}/invocations`, {
        body: event.value,
        headers: { 'X-Fc-Log-Type': 'Tail', 'Content-Type': 'application/octet-stream' },
      });
      const header = (key) => response.headers.get(`x-fc-${key}`);
      const error = header('error-type');
      const memory = header('max-memory-usage');
      show(
        [
          error ? [error, 'bad'] : [t('succeeded'), 'good'],
          [t('duration', { n: header('invocation-duration') ?? '–' }), ''],
          memory && [t('memoryUsed', { n: memory }), ''],
        ],
        await response.text(),
        decoded(header('log-result') ?? ''),
      );
    } catch (error) {
      show([[error.code || t('error'), 'bad']], error.message, '');
    }
    button.disabled = false;
    done();
  };
  return panel(
    t('invoke'),
    'invoke-title',
    h(
      'form',
      { onsubmit: submit },
      h('label', { for: 'event' }, t('event')),
      event,
      h('div', { class: 'actions' }, button),
    ),
    outcome,
  );
}

/** What instances print, as it comes: `{ node, close() }`. */
export function logsPanel(name) {
  let reading = null;
  const text = h(
    'pre',
    { class: 'logs', id: 'logs', tabindex: 0, role: 'log', 'aria-label': t('logs'), 'aria-live': 'off' },
    '',
  );
  const none = h('p', { class: 'hint' }, t('noLogs'));
  const add = (part) => {
    if (!part) return;
    none.hidden = true;
    const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
    text.append(part);
    if (text.textContent.length > MAX_LOG) text.textContent = text.textContent.slice(-MAX_LOG / 2);
    if (atEnd) text.scrollTop = text.scrollHeight;
  };
  const read = async () => {
    const mine = new AbortController();
    reading = mine;
    text.textContent = '';
    try {
      const response = await fetched('GET', `logs?name=${encodeURIComponent(name)}&follow=true`, {
        signal: mine.signal,
      });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) add(part.value);
      add(`— ${t('logsEnd')} —\n`);
    } catch (error) {
      if (error instanceof TypeError && reading === mine) {
        // The network was another for a moment: what was read is read again.
        setTimeout(() => reading === mine && read(), 1000);
        return;
      }
      if (!mine.signal.aborted) add(`— ${error.message} —\n`);
    }
    if (reading === mine) stop();
  };
  const stop = () => {
    reading?.abort();
    reading = null;
    follow.checked = false;
  };
  const follow = h('input', {
    type: 'checkbox',
    id: 'follow',
    checked: true,
    onchange: () => (follow.checked ? read() : stop()),
  });
  read();
  const node = panel(
    t('logs'),
    'logs-title',
    h('label', { class: 'inline corner', for: 'follow' }, follow, t('followLogs')),
    none,
    text,
  );
  return { node, close: stop };
}
