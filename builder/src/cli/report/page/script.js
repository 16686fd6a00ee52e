'use strict';
// Steps whose results a step reads, when the pointer is on it.
for (const row of document.querySelectorAll('.row[data-step]')) {
  const inputs = row.dataset.inputs.split(' ').filter(Boolean)
    .map(step => document.querySelector('.row[data-step="' + step + '"]')).filter(Boolean);
  row.addEventListener('mouseenter', () => inputs.forEach(input => input.classList.add('lit')));
  row.addEventListener('mouseleave', () => inputs.forEach(input => input.classList.remove('lit')));
  row.addEventListener('click', () => {
    const log = document.getElementById('log-' + row.dataset.step);
    if (log) { log.open = true; log.scrollIntoView(); }
  });
}
// A link to a log opens it.
function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === 'DETAILS') { target.open = true; target.scrollIntoView(); }
}
addEventListener('hashchange', openTarget);
openTarget();
// Search: the lines that match, with the logs that have none put away.
const search = document.getElementById('search');
if (search) {
  const logs = [...document.querySelectorAll('.log')].map(element => {
    const pre = element.querySelector('pre');
    return { element, pre, text: pre.textContent, open: element.open };
  });
  const found = document.getElementById('found');
  let waiting;
  const show = () => {
    const wanted = search.value.toLowerCase();
    let count = 0;
    for (const log of logs) {
      if (!wanted) {
        log.element.hidden = false;
        log.element.open = log.open;
        log.pre.textContent = log.text;
        continue;
      }
      const lines = log.text.split('\n').filter(line => line.toLowerCase().includes(wanted));
      count += lines.length;
      log.element.hidden = lines.length === 0;
      log.element.open = lines.length > 0;
      log.pre.replaceChildren();
      for (const line of lines.slice(0, 2000)) {
        let rest = line, at;
        while ((at = rest.toLowerCase().indexOf(wanted)) >= 0) {
          const mark = document.createElement('mark');
          mark.textContent = rest.slice(at, at + wanted.length);
          log.pre.append(rest.slice(0, at), mark);
          rest = rest.slice(at + wanted.length);
        }
        log.pre.append(rest + '\n');
      }
    }
    found.textContent = wanted ? count + (count === 1 ? ' line' : ' lines') : '';
  };
  search.addEventListener('input', () => { clearTimeout(waiting); waiting = setTimeout(show, 120); });
}
