//! What the environment must hold before a driver's loader reads it.

use std::ffi::OsString;
use std::path::Path;

/// The variable to set, and to what, so that Mesa's device-select layer does not print
/// `error: XDG_RUNTIME_DIR is invalid or not set in the environment`; `None` where it would not. To be set before the
/// first thread starts; `lookup` reads the environment.
///
/// The layer asks the Wayland compositor which GPU it draws on, even where there is none to ask: in containers, over ssh
/// without a session, under cron and systemd. It is Wayland's client library that prints the line. The layer's answer only
/// orders the list of adapters, which this crate orders by itself, so it is switched off. It stays where
/// `MESA_VK_DEVICE_SELECT` says that the user wants it.
pub fn quiet_device_select(
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Option<(&'static str, &'static str)> {
    const SWITCH: &str = "NODEVICE_SELECT";
    let absolute = |name| lookup(name).is_some_and(|path| Path::new(&path).is_absolute());
    let set = |name| lookup(name).is_some_and(|value| !value.is_empty());
    // Where the socket is given whole, the directory is not looked at.
    let finds_a_socket = absolute("XDG_RUNTIME_DIR") || absolute("WAYLAND_DISPLAY") || set("WAYLAND_SOCKET");
    let wanted = lookup(SWITCH).is_some() || set("MESA_VK_DEVICE_SELECT");
    (cfg!(target_os = "linux") && !finds_a_socket && !wanted).then_some((SWITCH, "1"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_switched_off_where_it_would_complain() {
        let quiet = |vars: &[(&str, &str)]| {
            let find = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
            quiet_device_select(find).is_some()
        };
        assert!(quiet(&[]));
        assert!(quiet(&[("XDG_RUNTIME_DIR", "")]));
        assert!(quiet(&[("XDG_RUNTIME_DIR", "run/user"), ("DISPLAY", ":0")]));
        assert!(quiet(&[("WAYLAND_DISPLAY", "wayland-0")]));
        assert!(!quiet(&[("XDG_RUNTIME_DIR", "/run/user/1000")]));
        assert!(!quiet(&[("WAYLAND_DISPLAY", "/run/user/1000/wayland-0")]));
        assert!(!quiet(&[("WAYLAND_SOCKET", "7")]));
        // The user's own choice, either way.
        assert!(!quiet(&[("MESA_VK_DEVICE_SELECT", "10005:0")]));
        assert!(!quiet(&[("NODEVICE_SELECT", "1")]));
    }
}
