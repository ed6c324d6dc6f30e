// The pages that need little: their data is fetched again as it changes.
import { fetchText, localise, onChanged, oneAtATime, swap } from './common.js'

const setup = document.getElementById('setup')
if (setup?.dataset.empty === 'true') {
  onChanged(async () => {
    const { empty } = await (await fetchText('/setup.json')).json()
    if (!empty) location.replace('/logs?live=1')
  })
}

if (document.querySelector('[data-refresh]')) {
  let first = true
  const refresh = oneAtATime(async () => {
    const response = await fetchText(location.href)
    swap(await response.text())
    // Such pages need no more than a look every few seconds.
    await new Promise((done) => setTimeout(done, 2000))
  })
  onChanged(() => {
    if (!first) refresh()
    first = false
  })
}

for (const form of document.querySelectorAll('form[data-auto]')) {
  form.addEventListener('change', () => form.requestSubmit())
}

// A line's page has the tabs of the drawer.
document.addEventListener('keydown', (event) => {
  const tab = event.target.closest?.('[role="tab"]')
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
  if (!tab || !step) return
  const tabs = [...tab.parentElement.children]
  tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length].focus()
})

localise()
