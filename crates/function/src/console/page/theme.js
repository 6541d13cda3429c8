// Runs before anything is drawn: the theme and the language that were chosen in this browser.
(() => {
  const kept = (name) => {
    try {
      return localStorage.getItem(`thaw.${name}`);
    } catch {
      return null;
    }
  };
  const root = document.documentElement;
  const theme = kept('theme');
  if (theme === 'light' || theme === 'dark') root.dataset.theme = theme;
  const language = kept('language') ?? navigator.language;
  root.lang = language.startsWith('zh') ? 'zh-CN' : 'en';
})();
