// Takes the one-time code from behind the address's `#`, which no server was told, and hands it in.
"use strict";
const code = location.hash.slice(1);
if (/^[A-Za-z0-9_-]{20,}$/.test(code)) {
  history.replaceState(null, "", location.pathname);
  const form = document.getElementById("enter");
  form.elements.ticket.value = code;
  form.submit();
}
