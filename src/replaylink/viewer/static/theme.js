// Runs before the page is painted, so that no page flashes in the other colours.
(() => {
  const root = document.documentElement
  const kept = () => {
    try {
      return localStorage.getItem('theme')
    } catch {
      return null // storage is switched off
    }
  }
  const set = (theme) => {
    if (theme) root.dataset.theme = theme
    else delete root.dataset.theme
  }
  root.classList.add('has-script')
  set(kept())

  addEventListener('DOMContentLoaded', () => {
    const button = document.getElementById('theme')
    if (!button) return
    const show = () => (button.querySelector('span').textContent = root.dataset.theme ?? 'system')
    const next = { undefined: 'light', light: 'dark', dark: '' }
    button.addEventListener('click', () => {
      const theme = next[root.dataset.theme]
      set(theme)
      try {
        if (theme) localStorage.setItem('theme', theme)
        else localStorage.removeItem('theme')
      } catch {
        // It holds for this page, then.
      }
      show()
      dispatchEvent(new Event('themechange'))
    })
    show()
  })
  // The player over the logs page follows it.
  addEventListener('storage', (event) => event.key === 'theme' && set(event.newValue))
})()
