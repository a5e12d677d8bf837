// Everything works without this file. It keeps a form from being sent twice, and an order's page current.
'use strict';

document.addEventListener('submit', (event) => {
  const form = event.target;
  if (form.method !== 'post') return;
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = 'yes';
  for (const button of form.querySelectorAll('button')) button.setAttribute('aria-disabled', 'true');
});

// A page that comes back from the browser's history may be sent again.
window.addEventListener('pageshow', () => {
  for (const form of document.querySelectorAll('form[data-sent]')) {
    delete form.dataset.sent;
    for (const button of form.querySelectorAll('button')) button.removeAttribute('aria-disabled');
  }
});

const live = document.querySelector('[data-events]');
if (live) {
  const source = new EventSource(live.dataset.events);
  source.addEventListener('order', (event) => {
    live.innerHTML = event.data; // rendered and escaped by the server, as the page itself is
    const status = live.firstElementChild.dataset.status;
    for (const part of document.querySelectorAll('[data-while]')) {
      part.hidden = !part.dataset.while.split(' ').includes(status);
    }
  });
  source.addEventListener('end', () => source.close());
}
