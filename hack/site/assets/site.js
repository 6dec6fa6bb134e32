// Search and the choice of the theme. Everything else works without this script.
(() => {
  const root = document.currentScript ? document.currentScript.dataset.root : document.querySelector('script[data-root]').dataset.root;
  const store = {
    get: () => { try { return localStorage.getItem('theme'); } catch { return null; } },
    set: (value) => { try { localStorage.setItem('theme', value); } catch { /* file:// may have no storage */ } },
  };
  const theme = document.getElementById('theme');
  const show = (value) => { if (value) document.documentElement.dataset.theme = value; };
  show(store.get());
  theme.hidden = false;
  theme.addEventListener('click', () => {
    const system = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
    const next = (document.documentElement.dataset.theme || system) === 'dark' ? 'light' : 'dark';
    show(next);
    store.set(next);
  });

  const form = document.getElementById('search');
  const query = document.getElementById('query');
  const results = document.getElementById('results');
  form.hidden = false;
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const first = results.querySelector('a');
    if (first) location.href = first.href;
  });
  // A script loads from file://, a JSON file does not.
  const load = () => {
    if (window.searchIndex || document.getElementById('index')) return;
    const script = document.createElement('script');
    script.id = 'index';
    script.src = root + '/search.js';
    script.addEventListener('load', search);
    document.head.append(script);
  };
  const score = (section, words) => {
    let sum = 0;
    for (const word of words) {
      const heading = section.h.toLowerCase().includes(word) ? 20 : 0;
      const page = section.p.toLowerCase().includes(word) ? 10 : 0;
      const text = Math.min(section.t.toLowerCase().split(word).length - 1, 5);
      if (heading + page + text === 0) return 0;
      sum += heading + page + text;
    }
    return sum;
  };
  const around = (text, word) => {
    const at = Math.max(0, text.toLowerCase().indexOf(word));
    const part = document.createElement('small');
    const hit = document.createElement('mark');
    hit.textContent = text.slice(at, at + word.length);
    const start = Math.max(0, at - 50);
    if (text.toLowerCase().includes(word)) part.append(text.slice(start, at), hit, text.slice(at + word.length, at + 90));
    else part.append(text.slice(0, 120));
    return part;
  };
  function search() {
    const words = query.value.toLowerCase().split(/\s+/).filter((word) => word.length > 1);
    results.hidden = words.length === 0;
    if (!window.searchIndex || words.length === 0) return;
    const found = window.searchIndex.map((section) => [score(section, words), section])
      .filter(([points]) => points > 0).sort((a, b) => b[0] - a[0]).slice(0, 12);
    results.replaceChildren(...found.map(([, section]) => {
      const item = document.createElement('li');
      const link = document.createElement('a');
      link.href = root + '/' + section.u;
      link.textContent = section.h === section.p ? section.p : section.p + ': ' + section.h;
      item.append(link, around(section.t, words[0]));
      return item;
    }));
    if (found.length === 0) results.append(Object.assign(document.createElement('li'), { textContent: 'Nothing found' }));
  }
  query.addEventListener('focus', load);
  query.addEventListener('input', () => { load(); search(); });
  document.addEventListener('keydown', (event) => {
    if (event.key === '/' && document.activeElement === document.body) { event.preventDefault(); query.focus(); }
    if (event.key === 'Escape') { query.value = ''; search(); }
  });
})();
