// What the host is asked, and what it says by itself.

let token = '';

/** A refusal of the host's: `code`, and a sentence. */
export class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function refusal(response) {
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    return new Refusal(response.status, body.ErrorCode ?? '', body.ErrorMessage ?? text);
  } catch {
    return new Refusal(response.status, '', text || response.statusText);
  }
}

// A browser breaks requests off when the machine's network changes, as it does where containers come and go
// beside it. What only reads is asked again.
async function reached(url, request, again = request.method === 'GET' ? 2 : 0) {
  try {
    return await fetch(url, request);
  } catch (error) {
    if (again === 0 || request.signal?.aborted) throw error;
    await new Promise((resolve) => setTimeout(resolve, 300));
    return reached(url, request, again - 1);
  }
}

/** The answer to a request, which is a success. */
export async function fetched(method, path, { body, headers = {}, signal } = {}) {
  const request = {
    method,
    body,
    signal,
    headers: method === 'GET' ? headers : { 'X-Csrf-Token': token, ...headers },
  };
  const response = await reached(`/console/api/${path}`, request);
  if (response.ok) return response;
  // A wrong key is said by the form; whoever is signed in no more is asked for one.
  if (response.status === 401 && !(path === 'session' && method === 'POST')) location.assign('/console/sign-in');
  throw await refusal(response);
}

/** The JSON of an answer; `null` where there is none. */
export async function ask(method, path, content) {
  const options =
    content === undefined
      ? {}
      : {
          body: JSON.stringify(content),
          headers: { 'Content-Type': 'application/json' },
        };
  const response = await fetched(method, path, options);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/** Who is signed in. */
export async function session() {
  const facts = await ask('GET', 'session');
  token = facts.token;
  return facts;
}

/** The API's path of a function. */
export function pathOf({ service, function: name }) {
  const encoded = encodeURIComponent(name);
  return service
    ? `2016-08-15/services/${encodeURIComponent(service)}/functions/${encoded}`
    : `2023-03-30/functions/${encoded}`;
}

/** Calls `news` with the list of functions, now and whenever it changes, and `broken` with whether it is not known. */
export function follow(news, broken) {
  const source = new EventSource('/console/api/events');
  source.addEventListener('functions', (event) => {
    broken(false);
    news(JSON.parse(event.data).functions);
  });
  source.addEventListener('error', () => {
    broken(true);
    if (source.readyState !== EventSource.CLOSED) return;
    // The browser gives up where the answer is no stream: signed out, or too many pages.
    setTimeout(
      () =>
        session()
          .finally(() => follow(news, broken))
          .catch(() => {}),
      2000,
    );
  });
}
