// Language and theme, at the top of every page.

import { h } from '/console/dom.js';
import { language, paint, speak, t, theme } from '/console/words.js';

/** The controls; `redraw` is called when the language is another. */
export function choices(redraw) {
  const other = language() === 'zh' ? ['en', 'English'] : ['zh', '中文'];
  const speakOther = h(
    'button',
    {
      class: 'plain',
      id: 'language',
      lang: other[0],
      'aria-label': `${t('language')}: ${other[1]}`,
      onclick: () => {
        speak(other[0]);
        redraw();
        document.getElementById('language')?.focus();
      },
    },
    other[1],
  );
  const select = h(
    'select',
    { id: 'theme', 'aria-label': t('theme'), onchange: () => paint(select.value) },
    ['auto', 'light', 'dark'].map((name) => h('option', { value: name }, t(`theme${name}`))),
  );
  select.value = theme();
  return [speakOther, select];
}
