// A function's page. What the list says of it comes by itself; the rest is asked when that changes.

import { accelerationSwitch } from '/console/acceleration.js';
import { sideBySide, treemap, waterfall } from '/console/charts.js';
import { confirm, h, put, say, set } from '/console/dom.js';
import { ask, pathOf } from '/console/host.js';
import { addressOf, stateOf } from '/console/list.js';
import { invokePanel, logsPanel, panel } from '/console/panels.js';
import { triggersPanel } from '/console/triggers.js';
import { bytes, many, moment, number, t, time } from '/console/words.js';

/** Cold starts that can be chosen. */
const STARTS = 10;
/** Invocations that are listed. */
const LAST = 12;

function tile(key, value, hint) {
  return h('div', { class: 'tile' }, h('dt', {}, t(key)), h('dd', {}, value), hint && h('small', {}, hint));
}

function gigabyteSeconds(amount, invocations) {
  if (invocations === 0) return ['–', t('nothingYet')];
  return [number(amount, amount < 10 ? 3 : 1), t('perThousand', { n: number((amount / invocations) * 1000, 2) })];
}

function tiles(facts) {
  const { workingSet, compressed } = facts.acceleration;
  const known = workingSet && compressed > 0;
  const share = known ? workingSet.packed / compressed : null;
  const rate = known && (share < 0.001 ? '< 0.1%' : `${number(share * 100, 1)}%`);
  const before = gigabyteSeconds(
    facts.gbSeconds - facts.acceleratedGbSeconds,
    facts.invocations - facts.acceleratedInvocations,
  );
  const after = gigabyteSeconds(facts.acceleratedGbSeconds, facts.acceleratedInvocations);
  return h(
    'dl',
    { class: 'tiles' },
    tile('invocations', number(facts.invocations), many(facts.errors, 'oneError', 'errors')),
    tile(
      'instances',
      number(facts.instances.running),
      facts.instances.busy > 0 ? t('busyOf', facts.instances) : stateOf(facts)[1],
    ),
    tile(
      'loadRate',
      known ? rate : '–',
      known ? t('loadRateHint', { part: bytes(workingSet.packed), all: bytes(compressed) }) : '',
    ),
    h(
      'div',
      { class: 'tile pair' },
      h('dt', {}, t('billed')),
      h('dd', {}, h('span', { class: 'before' }, before[0]), ' → ', h('span', { class: 'after' }, after[0])),
      h('small', {}, `${t('before')}: ${before[1]} · ${t('after')}: ${after[1]}`),
    ),
  );
}

function instances(facts) {
  if (facts.live.length === 0) return h('p', { class: 'hint' }, t('noInstances'));
  const head = ['instance', 'version', 'started', 'requests', 'memory'];
  const row = (it) =>
    h(
      'tr',
      {},
      h('th', { scope: 'row' }, h('code', {}, it.id.slice(0, 12))),
      h('td', {}, it.version, !it.current && ` (${t('old')})`),
      h('td', { title: it.why }, t(it.how)),
      h('td', {}, number(it.answered)),
      h('td', {}, it.peakMemory ? bytes(it.peakMemory) : '–'),
    );
  return h(
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
          head.map((key) => h('th', { scope: 'col' }, t(key))),
        ),
      ),
      h('tbody', {}, facts.live.map(row)),
    ),
  );
}

function lastInvocations(facts) {
  const row = (it) =>
    h(
      'tr',
      {},
      h('td', {}, moment(it.at)),
      h('td', {}, h('code', { title: it.requestId }, it.requestId.slice(0, 8))),
      h('td', {}, h('span', { class: it.cold ? 'tag cold' : 'tag' }, t(it.cold ? 'cold' : 'warm'))),
      h('td', { class: 'number' }, time(it.took)),
      h('td', { class: it.error ? 'bad long' : 'long' }, it.error ?? t('ok')),
    );
  const head = ['when', 'request', 'kind', 'took', 'result'];
  return h(
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
          head.map((key) => h('th', { scope: 'col', class: key === 'took' ? 'number' : null }, t(key))),
        ),
      ),
      h('tbody', {}, facts.last.slice(-LAST).reverse().map(row)),
    ),
  );
}

/** Which cold start is shown: the last, or the one that was chosen. */
function startsPanel() {
  const body = h('div');
  let starts = [];
  let chosen = '';
  const select = h('select', {
    id: 'which-start',
    'aria-label': t('whichStart'),
    onchange: () => {
      chosen = select.value;
      draw();
    },
  });
  const draw = () => {
    const start = starts.find((it) => it.at === chosen) ?? starts[0];
    if (!start) return;
    const kind = start.accelerated ? 'after' : 'before';
    body.replaceChildren(
      waterfall(start),
      h(
        'p',
        { class: 'hint' },
        h('span', { class: `tag ${kind}` }, t(kind)),
        start.local ? h('span', { class: 'tag' }, t('local')) : '',
        ` ${t(start.how)}: ${start.why} · ${time(start.ready)} ${t('total')}`,
      ),
    );
  };
  const node = panel(t('waterfall'), 'waterfall-title', h('div', { class: 'corner' }, select), body);
  const update = (facts) => {
    starts = facts.coldStarts.slice(-STARTS).reverse();
    node.hidden = starts.length === 0;
    const options = starts.map((it) =>
      h('option', { value: it.at }, `${moment(it.at)} · ${time(it.ready)} · ${t(it.accelerated ? 'after' : 'before')}${it.local ? ` · ${t('local')}` : ''}`),
    );
    select.replaceChildren(...options);
    if (!starts.some((it) => it.at === chosen)) chosen = '';
    select.value = chosen || starts[0]?.at || '';
    draw();
  };
  return { node, update };
}

function latencies(facts) {
  // A start with all of its image here says nothing of before and after.
  const cold = facts.coldStarts.filter((it) => !it.local).map((it) => ({
    took: it.ready,
    accelerated: it.accelerated,
    title: `${moment(it.at)} · ${it.why}`,
  }));
  const warm = facts.last
    .filter((it) => !it.cold && !it.error)
    .map((it) => ({ took: it.took, accelerated: it.accelerated, title: moment(it.at) }));
  const drawn = (points, title, none) => [
    points.length > 0 ? sideBySide(points, t(title)) : h('p', { class: 'hint' }, t(none)),
  ];
  return [drawn(cold, 'coldTitle', 'noColdStarts'), drawn(warm, 'warmTitle', 'noWarm')];
}

/** The view. */
export function functionView(name) {
  const acceleration = accelerationSwitch(name.name);
  const state = h('span', { class: 'state' });
  const image = h('code', { class: 'image' });
  const figures = h('div');
  const overview = h(
    'div',
    { class: 'card whole overview' },
    h('div', { class: 'line' }, h('span', { class: 'label' }, t('acceleration')), acceleration.node),
    figures,
  );
  const cold = h('div');
  const warm = h('div');
  const starts = startsPanel();
  const map = h('div');
  const mapPanel = panel(t('workingSet'), 'set-title', map);
  const live = h('div');
  const last = h('div');
  const lastPanel = panel(t('lastInvocations'), 'last-title', last);
  lastPanel.classList.add('whole');
  const logs = logsPanel(name.name);
  let before = '';
  let setOf = '';
  let asking = false;
  let again = false;

  const remove = async () => {
    if (!(await confirm(t('deleteAsk', name), t('deleteDetail'), t('delete'), t('cancel')))) return;
    try {
      await ask('DELETE', pathOf(name));
      say(t('deleted', name));
      location.hash = '#/';
    } catch (error) {
      put(problem, error.message);
    }
  };
  const problem = h('p', { class: 'problem', role: 'alert' });
  const content = h(
    'div',
    { class: 'grid' },
    overview,
    panel(t('coldTitle'), 'cold-title', cold),
    panel(t('warmTitle'), 'warm-title', warm),
    starts.node,
    mapPanel,
    invokePanel(name, () => load()),
    logs.node,
    panel(t('instances'), 'instances-title', live),
    triggersPanel(name),
    lastPanel,
  );
  const node = h(
    'section',
    { 'aria-labelledby': 'title' },
    h('p', { class: 'crumb' }, h('a', { href: '#/' }, `← ${t('back')}`)),
    h(
      'div',
      { class: 'head' },
      h('h1', { id: 'title' }, name.name),
      state,
      h('span', { class: 'spread' }),
      h('a', { class: 'button plain', href: addressOf('edit', name) }, t('edit')),
      h('button', { class: 'danger', id: 'delete', onclick: remove }, t('delete')),
    ),
    h('p', { class: 'under' }, image),
    problem,
    content,
  );

  function draw(facts) {
    update([facts]);
    put(image, facts.digest ? `${facts.image.split('@')[0]} @ ${facts.digest.slice(0, 19)}` : facts.image);
    figures.replaceChildren(tiles(facts));
    const [ofCold, ofWarm] = latencies(facts);
    cold.replaceChildren(...ofCold);
    warm.replaceChildren(...ofWarm);
    starts.update(facts);
    live.replaceChildren(instances(facts));
    lastPanel.hidden = facts.last.length === 0;
    last.replaceChildren(lastInvocations(facts));
    drawSet(facts);
  }
  async function drawSet(facts) {
    const recorded = facts.acceleration.workingSet ? JSON.stringify([facts.digest, facts.acceleration.workingSet]) : '';
    if (recorded === setOf) return;
    setOf = recorded;
    const files = recorded
      ? (await ask('GET', `working-set?name=${encodeURIComponent(name.name)}`).catch(() => ({ files: [] }))).files
      : [];
    mapPanel.hidden = files.length === 0;
    starts.node.classList.toggle('whole', mapPanel.hidden);
    if (files.length > 0) map.replaceChildren(treemap(files, map.clientWidth || 600));
  }
  async function load() {
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    try {
      draw(await ask('GET', `function?name=${encodeURIComponent(name.name)}`));
    } catch (error) {
      put(problem, error.status === 404 ? t('gone') : error.message);
      if (error.status === 404) content.hidden = true;
    }
    asking = false;
    if (again) {
      again = false;
      load();
    }
  }
  function update(list) {
    const facts = list.find((it) => it.name === name.name);
    if (!facts) return;
    const [kind, text] = stateOf(facts);
    set(state, 'data-state', kind);
    put(state, text);
    acceleration.update(facts.acceleration);
  }
  mapPanel.hidden = true;
  starts.node.classList.add('whole');
  lastPanel.hidden = true;
  starts.node.hidden = true;
  load();
  return {
    node,
    title: name.name,
    close: logs.close,
    update: (list) => {
      update(list);
      const now = JSON.stringify(list.find((it) => it.name === name.name) ?? null);
      if (now !== before) load();
      before = now;
    },
  };
}
