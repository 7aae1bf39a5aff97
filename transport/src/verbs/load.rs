//! libibverbs, opened when the first device is asked for: a program with this crate starts and
//! runs where the library is not installed, and only this transport is then missing.
//!
//! Feature `rdma-sys` takes the same functions from that crate instead, which links the library,
//! as distributions prefer.

use std::{
    ffi::{c_int, c_void},
    sync::OnceLock,
};

use super::abi::{
    ibv_async_event, ibv_comp_channel, ibv_context, ibv_cq, ibv_device, ibv_device_attr, ibv_gid,
    ibv_mr, ibv_pd, ibv_port_attr, ibv_qp, ibv_qp_attr, ibv_qp_init_attr,
};

/// Why libibverbs cannot be used. The first attempt's outcome is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// It is not installed, or not where the loader looks.
    #[error(
        "libibverbs.so.1 cannot be loaded ({reason}): install libibverbs1 and ibverbs-providers \
         (Debian, Ubuntu) or libibverbs (Fedora, RHEL)"
    )]
    Missing {
        /// The loader's words.
        reason: String,
    },
    /// It is there but lacks a function.
    #[error("libibverbs.so.1 has no {symbol}: install rdma-core 36 or newer")]
    Symbol {
        /// The function.
        symbol: &'static str,
    },
}

macro_rules! library {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        /// The library's functions, under their C names.
        #[derive(Debug)]
        pub struct Library {
            $(pub(super) $name: unsafe extern "C" fn($($argument: $type),*) $(-> $result)?,)*
        }

        impl Library {
            /// Asks for each function's address by its name with a terminating zero.
            fn resolve(
                symbol: impl Fn(&'static str) -> Option<*mut c_void>,
            ) -> Result<Self, LoadError> {
                Ok(Self {
                    $($name: {
                        let address = symbol(concat!(stringify!($name), "\0"))
                            .ok_or(LoadError::Symbol { symbol: stringify!($name) })?;
                        // SAFETY: the address is that of the C function of this name, whose
                        // prototype in verbs.h is the type written here.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($type),*) $(-> $result)?,
                            >(address)
                        }
                    },)*
                })
            }
        }

        /// Addresses of the functions that the crate `rdma-sys` links.
        #[cfg(feature = "rdma-sys")]
        fn linked(name: &'static str) -> Option<*mut c_void> {
            $(if name == concat!(stringify!($name), "\0") {
                return Some(rdma_sys::$name as *mut c_void);
            })*
            None
        }
    };
}

library! {
    fn ibv_get_device_list(count: *mut c_int) -> *mut *mut ibv_device;
    fn ibv_free_device_list(list: *mut *mut ibv_device);
    fn ibv_open_device(device: *mut ibv_device) -> *mut ibv_context;
    fn ibv_close_device(context: *mut ibv_context) -> c_int;
    fn ibv_query_device(context: *mut ibv_context, attributes: *mut ibv_device_attr) -> c_int;
    fn ibv_query_port(context: *mut ibv_context, port: u8, attributes: *mut ibv_port_attr) -> c_int;
    fn ibv_query_gid(context: *mut ibv_context, port: u8, index: c_int, gid: *mut ibv_gid) -> c_int;
    fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd;
    fn ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int;
    fn ibv_reg_mr(pd: *mut ibv_pd, address: *mut c_void, len: usize, access: c_int) -> *mut ibv_mr;
    fn ibv_dereg_mr(mr: *mut ibv_mr) -> c_int;
    fn ibv_create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel;
    fn ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int;
    fn ibv_create_cq(
        context: *mut ibv_context,
        entries: c_int,
        cq_context: *mut c_void,
        channel: *mut ibv_comp_channel,
        vector: c_int,
    ) -> *mut ibv_cq;
    fn ibv_destroy_cq(cq: *mut ibv_cq) -> c_int;
    fn ibv_get_cq_event(
        channel: *mut ibv_comp_channel,
        cq: *mut *mut ibv_cq,
        cq_context: *mut *mut c_void,
    ) -> c_int;
    fn ibv_ack_cq_events(cq: *mut ibv_cq, count: u32);
    fn ibv_create_qp(pd: *mut ibv_pd, attributes: *mut ibv_qp_init_attr) -> *mut ibv_qp;
    fn ibv_modify_qp(qp: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int) -> c_int;
    fn ibv_destroy_qp(qp: *mut ibv_qp) -> c_int;
    fn ibv_get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int;
    fn ibv_ack_async_event(event: *mut ibv_async_event);
}

/// The library, opened at the first call; it stays open for the life of the process, because its
/// drivers cannot be unloaded safely.
///
/// # Errors
/// When it is not installed or too old; the text names the package to install.
pub fn library() -> Result<&'static Library, LoadError> {
    static LIBRARY: OnceLock<Result<Library, LoadError>> = OnceLock::new();
    LIBRARY.get_or_init(open).as_ref().map_err(Clone::clone)
}

#[cfg(feature = "rdma-sys")]
fn open() -> Result<Library, LoadError> {
    Library::resolve(linked)
}

#[cfg(not(feature = "rdma-sys"))]
fn open() -> Result<Library, LoadError> {
    // RTLD_GLOBAL would let the library's symbols shadow those of a host program.
    // SAFETY: a constant, terminated name; the library's initialisers are those of a system
    // library that any program may load at any time.
    let handle =
        unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(LoadError::Missing { reason: loader_error() });
    }
    Library::resolve(|name| {
        // SAFETY: the handle is open and never closed; the name ends with a zero byte.
        let address = unsafe { libc::dlsym(handle, name.as_ptr().cast()) };
        (!address.is_null()).then_some(address)
    })
}

#[cfg(not(feature = "rdma-sys"))]
fn loader_error() -> String {
    // SAFETY: dlerror has no preconditions; its text is this thread's until its next dl call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".into();
    }
    // SAFETY: not null, and dlerror's text is zero-terminated.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_function_is_named() {
        let refused = Library::resolve(|_| None);
        assert_eq!(refused.err(), Some(LoadError::Symbol { symbol: "ibv_get_device_list" }));
    }
}
