// Gives the token of the address to the server once, and forgets it.
"use strict";
{
  const section = document.getElementById("token");
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  const root = section.dataset.root;
  if (token) {
    history.replaceState(null, "", location.pathname + location.search);
    fetch(`${root}/token`, { method: "POST", headers: { "content-type": "application/json", "x-redisaq": "1" }, body: JSON.stringify({ token }) })
      .then((answer) => { if (answer.ok) location.reload(); else document.getElementById("token-text").textContent = "This is not the token."; })
      .catch(() => { document.getElementById("token-text").textContent = "The dashboard does not answer."; });
  }
}
