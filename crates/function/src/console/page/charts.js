// Drawings. Positions across are shares of the width, so that texts keep their size on any screen.

import { h, s } from '/console/dom.js';
import { bytes, many, number, t, time } from '/console/words.js';

/** The middle of some numbers; `null` of none. */
export function median(values) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** A round number that is not below. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 0.1)));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

const percent = (share) => `${(share * 100).toFixed(2)}%`;

function pane(points, kind, most, from, to, height) {
  const across = (share) => percent(from + (to - from) * share);
  const down = (value) => 8 + (height - 30) * (1 - value / most);
  const middle = median(points.map((point) => point.took));
  const parts = [0, 0.5, 1].map((share) =>
    s('line', { class: 'rule', x1: percent(from), x2: percent(to), y1: down(most * share), y2: down(most * share) }),
  );
  points.forEach((point, index) => {
    const share = points.length === 1 ? 0.5 : 0.04 + (0.92 * index) / (points.length - 1);
    const dot = s('circle', {
      class: `dot ${kind}`,
      cx: across(share),
      cy: down(point.took),
      r: points.length > 60 ? 2.5 : 4,
    });
    dot.append(s('title', {}, `${point.title} · ${time(point.took)}`));
    parts.push(dot);
  });
  if (middle !== null) {
    parts.push(
      s('line', { class: `median ${kind}`, x1: percent(from), x2: percent(to), y1: down(middle), y2: down(middle) }),
    );
  } else {
    parts.push(s('text', { class: 'faint', x: across(0.5), y: height / 2, 'text-anchor': 'middle' }, t('nothingYet')));
  }
  parts.push(
    s(
      'text',
      { class: `pane ${kind}`, x: percent(from), y: height - 4 },
      `${t(kind)} · ${t('of', { n: number(points.length) })}`,
    ),
  );
  return parts;
}

/** Durations before and after acceleration, side by side on one scale: `points` have `took`, `accelerated`, `title`. */
export function sideBySide(points, label) {
  const before = points.filter((point) => !point.accelerated);
  const after = points.filter((point) => point.accelerated);
  const medians = [before, after].map((part) => median(part.map((point) => point.took)));
  const most = round(Math.max(...points.map((point) => point.took), 1));
  const height = 170;
  const chart = s(
    'svg',
    {
      class: 'chart',
      width: '100%',
      height,
      role: 'img',
      'aria-label': `${label}: ${t('before')} ${time(medians[0])}, ${t('after')} ${time(medians[1])}`,
    },
    pane(before, 'before', most, 0.09, 0.535, height),
    pane(after, 'after', most, 0.555, 1, height),
    [0, 0.5, 1].map((share) =>
      s(
        'text',
        { class: 'faint', x: '8%', y: 12 + (height - 30) * (1 - share), 'text-anchor': 'end' },
        time(most * share).replace('.0', ''),
      ),
    ),
  );
  const factor = medians[0] && medians[1] ? medians[0] / medians[1] : null;
  const side = (kind, value) =>
    h(
      'div',
      { class: `figure ${kind}` },
      h('span', {}, t(`${kind}Long`)),
      h('strong', {}, time(value)),
      h('small', {}, t('median')),
    );
  // As good as the same is no verdict.
  const differs = factor && Math.abs(Math.log(factor)) > 0.05;
  const verdict =
    differs &&
    h(
      'div',
      { class: factor >= 1 ? 'verdict' : 'verdict slower' },
      factor >= 1 ? t('faster', { n: number(factor, factor < 10 ? 1 : 0) }) : t('slower', { n: number(1 / factor, 1) }),
    );
  return h(
    'div',
    {},
    h('div', { class: 'figures' }, side('before', medians[0]), side('after', medians[1]), verdict),
    chart,
  );
}

/** The steps of a cold start. */
export function waterfall(start) {
  const spans = start.spans.filter(([, , took]) => took >= 0);
  const most = Math.max(start.ready, ...spans.map(([, begin, took]) => begin + took), 1);
  const rows = spans.map(([name, begin, took]) => {
    const bar = s(
      'svg',
      { width: '100%', height: 18, 'aria-hidden': 'true' },
      s('rect', {
        class: name === 'program' ? 'step program' : 'step',
        x: percent(begin / most),
        y: 4,
        width: percent(Math.max(took / most, 0.003)),
        height: 10,
        rx: 2,
      }),
    );
    return h(
      'tr',
      {},
      h('th', { scope: 'row' }, name),
      h('td', { class: 'track' }, bar),
      h('td', { class: 'number' }, time(begin)),
      h('td', { class: 'number' }, time(took)),
    );
  });
  return h(
    'table',
    { class: 'waterfall' },
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        h('th', { scope: 'col' }, t('span')),
        h('td'),
        h('th', { scope: 'col', class: 'number' }, t('begin')),
        h('th', { scope: 'col', class: 'number' }, t('took')),
      ),
    ),
    h('tbody', {}, rows),
  );
}

/** The sum of files by directory, with so many leaves at most. */
function byDirectory(files, most) {
  const sums = (depth) => {
    const all = new Map();
    for (const { path, bytes: size } of files) {
      const parts = path.split('/').filter(Boolean);
      const key = `/${parts.slice(0, Math.min(depth, Math.max(1, parts.length - 1))).join('/')}`;
      const sum = all.get(key) ?? { path: key, bytes: 0, files: 0 };
      sum.bytes += size;
      sum.files += 1;
      all.set(key, sum);
    }
    return [...all.values()].sort((a, b) => b.bytes - a.bytes);
  };
  // As deep as there is room for.
  let best = sums(1);
  for (let depth = 2; depth <= 8; depth += 1) {
    const deeper = sums(depth);
    if (deeper.length > most) break;
    best = deeper;
  }
  const rest = best.slice(most);
  const sum = (key) => rest.reduce((total, item) => total + item[key], 0);
  return rest.length > 0 ? [...best.slice(0, most), { path: '…', bytes: sum('bytes'), files: sum('files') }] : best;
}

/** Splits a rectangle between items, largest first, by halves of about the same weight. */
function split(items, x, y, width, height, out) {
  if (items.length === 0) return;
  if (items.length === 1) {
    out.push({ ...items[0], x, y, width, height });
    return;
  }
  const total = items.reduce((sum, item) => sum + item.bytes, 0);
  let [count, part] = [0, 0];
  while (count < items.length - 1 && (count === 0 || part + items[count].bytes / 2 < total / 2)) {
    part += items[count].bytes;
    count += 1;
  }
  const share = total > 0 ? part / total : 0.5;
  const [first, rest] = [items.slice(0, count), items.slice(count)];
  if (width >= height) {
    split(first, x, y, width * share, height, out);
    split(rest, x + width * share, y, width * (1 - share), height, out);
  } else {
    split(first, x, y, width, height * share, out);
    split(rest, x, y + height * share, width, height * (1 - share), out);
  }
}

/** Files as areas, by directory. */
export function treemap(files, width) {
  const [items, height, places] = [byDirectory(files, 24), 240, []];
  split(items, 0, 0, width, height, places);
  const parts = places.map((place, index) => {
    const room = Math.floor((place.width - 10) / 6.6);
    const fits = room >= 3 && place.height >= 18;
    const text = place.path.length <= room ? place.path : `…${place.path.slice(-(room - 1))}`;
    return s(
      'g',
      {},
      s('title', {}, `${place.path} · ${bytes(place.bytes)} · ${many(place.files, 'oneFile', 'files')}`),
      s('rect', {
        class: `area area${index % 4}`,
        x: place.x + 1,
        y: place.y + 1,
        width: Math.max(0, place.width - 2),
        height: Math.max(0, place.height - 2),
        rx: 3,
      }),
      fits && s('text', { x: place.x + 7, y: place.y + 15 }, text),
      fits && place.height >= 34 && s('text', { class: 'faint', x: place.x + 7, y: place.y + 29 }, bytes(place.bytes)),
    );
  });
  const label = items
    .slice(0, 5)
    .map((item) => `${item.path} ${bytes(item.bytes)}`)
    .join(', ');
  return s(
    'svg',
    {
      class: 'treemap',
      width: '100%',
      height,
      viewBox: `0 0 ${width} ${height}`,
      preserveAspectRatio: 'none',
      role: 'img',
      'aria-label': `${t('workingSet')}: ${label}`,
    },
    parts,
  );
}
