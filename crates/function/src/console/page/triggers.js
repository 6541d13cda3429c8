// What invokes a function.

import { confirm, h } from '/console/dom.js';
import { ask, pathOf } from '/console/host.js';
import { panel } from '/console/panels.js';
import { t } from '/console/words.js';

/** What a new one may begin with. */
const BEGIN = {
  http: { authType: 'anonymous', methods: ['GET', 'POST'] },
  timer: { cronExpression: '@every 5m', enable: true, payload: '' },
  oss: { events: ['oss:ObjectCreated:*'], filter: { key: { prefix: '', suffix: '' } } },
};

function configOf(trigger) {
  const text = trigger.triggerConfig;
  return typeof text === 'string' ? text : JSON.stringify(text);
}

/** The panel: those there are, and a form for one more. */
export function triggersPanel(name) {
  const path = `${pathOf(name)}/triggers`;
  const list = h('div', { id: 'triggers' });
  const problem = h('p', { class: 'problem', role: 'alert' });
  const attempt = async (work) => {
    problem.textContent = '';
    try {
      await work();
    } catch (error) {
      problem.textContent = error.message;
    }
  };
  const remove = async (trigger) => {
    const { triggerName } = trigger;
    if (!(await confirm(t('deleteTrigger', { name: triggerName }), t('deleteTriggerDetail'), t('delete'), t('cancel'))))
      return;
    await attempt(() => ask('DELETE', `${path}/${encodeURIComponent(triggerName)}`));
    await load();
  };
  const row = (trigger) => {
    const url = trigger.urlInternet ?? trigger.httpTrigger?.urlInternet;
    return h(
      'tr',
      {},
      h('th', { scope: 'row' }, trigger.triggerName),
      h('td', {}, trigger.triggerType),
      h(
        'td',
        {},
        url && h('div', {}, h('a', { href: url, rel: 'noreferrer', target: '_blank' }, url)),
        h('code', {}, configOf(trigger)),
      ),
      h(
        'td',
        { class: 'number' },
        h(
          'button',
          { class: 'small', 'aria-label': `${t('delete')}: ${trigger.triggerName}`, onclick: () => remove(trigger) },
          t('delete'),
        ),
      ),
    );
  };
  const load = () =>
    attempt(async () => {
      const { triggers } = await ask('GET', `${path}?limit=100`);
      list.replaceChildren(
        triggers.length === 0
          ? h('p', { class: 'hint' }, t('noTriggers'))
          : h(
              'div',
              { class: 'frame' },
              h(
                'table',
                {},
                h(
                  'thead',
                  {},
                  h(
                    'tr',
                    {},
                    h('th', { scope: 'col' }, t('name')),
                    h('th', { scope: 'col' }, t('type')),
                    h('th', { scope: 'col' }, t('configuration')),
                    h('td'),
                  ),
                ),
                h('tbody', {}, triggers.map(row)),
              ),
            ),
      );
    });
  const own = h('input', { id: 'trigger-name', required: true, spellcheck: 'false' });
  const config = h('textarea', { id: 'trigger-config', class: 'code', rows: 4, spellcheck: 'false' });
  const begin = () => {
    config.value = JSON.stringify(BEGIN[type.value], null, 2);
  };
  const type = h(
    'select',
    { id: 'trigger-type', onchange: begin },
    Object.keys(BEGIN).map((kind) => h('option', { value: kind }, kind)),
  );
  begin();
  const add = (event) => {
    event.preventDefault();
    attempt(async () => {
      await ask('POST', path, { triggerName: own.value, triggerType: type.value, triggerConfig: config.value });
      own.value = '';
      more.open = false;
      await load();
    });
  };
  const more = h(
    'details',
    {},
    h('summary', {}, t('addTrigger')),
    h(
      'form',
      { class: 'fields', onsubmit: add },
      h('div', { class: 'field' }, h('label', { for: 'trigger-name' }, t('name')), own),
      h('div', { class: 'field' }, h('label', { for: 'trigger-type' }, t('type')), type),
      h('div', { class: 'field broad' }, h('label', { for: 'trigger-config' }, t('configuration')), config),
      h('div', { class: 'actions' }, h('button', { type: 'submit' }, t('addTrigger'))),
    ),
  );
  load();
  return panel(t('triggers'), 'triggers-title', list, problem, more);
}
