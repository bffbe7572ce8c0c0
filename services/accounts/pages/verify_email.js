// The token stands behind the #: no server log, proxy or referrer has seen it. A click is asked for because
// scanners of mail follow links, too.
const answer = document.getElementById('answer');
// Beside this script, so that it works behind a proxy that puts a path in front.
const route = new URL('api/v1/auth/verify-email', document.currentScript.src);
const confirm = document.getElementById('confirm');
confirm.addEventListener('click', async () => {
  confirm.disabled = true;
  const token = new URLSearchParams(location.hash.slice(1)).get('token') ?? '';
  try {
    const response = await fetch(route, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ token }),
    });
    if (response.ok) {
      confirm.remove();
      answer.textContent = 'Thank you, your address is confirmed.';
      history.replaceState(null, '', location.pathname);
      return;
    }
    answer.textContent = response.status === 400
      ? 'This link is not good any more: it was used, or a day has passed.'
      : 'That did not work. Please try again.';
  } catch {
    answer.textContent = 'The service cannot be reached. Please try again.';
  }
  confirm.disabled = false;
});
