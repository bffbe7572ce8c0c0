// The token stands behind the #: no server log, proxy or referrer has seen it.
const answer = document.getElementById('answer');
const password = document.getElementById('password');
// Beside this script, so that it works behind a proxy that puts a path in front.
const route = new URL('api/v1/auth/password-reset/confirm', document.currentScript.src);
const set = document.getElementById('set');
set.addEventListener('click', async () => {
  set.disabled = true;
  const token = new URLSearchParams(location.hash.slice(1)).get('token') ?? '';
  try {
    const response = await fetch(route, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ token, new_password: password.value }),
    });
    if (response.ok) {
      password.remove();
      set.remove();
      answer.textContent = 'Your new password is set. Sign in with it.';
      history.replaceState(null, '', location.pathname);
      return;
    }
    const problem = await response.json();
    answer.textContent = response.status === 422
      ? `The password ${problem.errors?.[0]?.msg ?? 'is not taken'}.`
      : problem.detail ?? 'That did not work. Please try again.';
  } catch {
    answer.textContent = 'The service cannot be reached. Please try again.';
  }
  set.disabled = false;
});
