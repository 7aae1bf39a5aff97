//! Verbs devices: what the host has, which device, port and address to use, and an open device
//! with its protection domain.

use std::{
    ffi::{CStr, c_int},
    net::Ipv6Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

use super::{
    VerbsConfig,
    abi::{
        IBV_ATOMIC_NONE, IBV_DEVICE_MEM_WINDOW_TYPE_2A, IBV_DEVICE_MEM_WINDOW_TYPE_2B,
        IBV_LINK_LAYER_ETHERNET, IBV_LINK_LAYER_INFINIBAND, IBV_MTU_256, IBV_MTU_4096,
        IBV_PORT_ACTIVE, IBV_TRANSPORT_IB, ibv_context, ibv_device, ibv_device_attr, ibv_gid,
        ibv_pd, ibv_port_attr,
    },
    load::{Library, LoadError, library},
};
use crate::{error::OpenError, fabric::Promises};

/// A device as the host shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// Its name, such as `mlx5_0` or `rxe0`.
    pub name: String,
    /// Version of its firmware; `0.0.0` for software devices.
    pub firmware: String,
    /// The node's globally unique identifier.
    pub node_guid: u64,
    /// The vendor's IEEE number; 0xffffff for software devices.
    pub vendor_id: u32,
    /// Whether it executes fetch-add and compare-swap.
    pub atomics: bool,
    /// Most queue pairs.
    pub queue_pairs_max: u32,
    /// Most entries of a completion queue.
    pub completions_max: u32,
    /// Most bytes of one memory region.
    pub region_len_max: u64,
    /// Its ports.
    pub ports: Vec<PortInfo>,
}

/// One port of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortInfo {
    /// Number, from 1.
    pub number: u8,
    /// Whether it is up.
    pub active: bool,
    /// The state in words, such as `ACTIVE` or `DOWN`.
    pub state: &'static str,
    /// What carries the packets.
    pub link: Link,
    /// MTU in force, in bytes.
    pub active_mtu: u16,
    /// Largest MTU it could have, in bytes.
    pub max_mtu: u16,
    /// InfiniBand local identifier; 0 on Ethernet.
    pub lid: u16,
    /// Most bytes of one message.
    pub message_len_max: u32,
    /// Its addresses, without unused entries.
    pub gids: Vec<GidInfo>,
}

/// What carries a port's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet: RoCE.
    Ethernet,
    /// Unknown.
    Other,
}

/// One entry of a port's address table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GidInfo {
    /// Index in the table.
    pub index: u8,
    /// The address; an IPv4 address appears as `::ffff:a.b.c.d`.
    pub gid: Ipv6Addr,
    /// How packets with it travel.
    pub kind: GidKind,
    /// The network interface it belongs to, on Ethernet.
    pub interface: Option<String>,
}

/// How packets with an address travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GidKind {
    /// InfiniBand.
    InfiniBand,
    /// In Ethernet frames: not routed.
    RoceV1,
    /// In UDP packets.
    RoceV2,
}

/// All devices of this host with their ports.
///
/// # Errors
/// When libibverbs cannot be used, or a device cannot be asked.
pub fn devices() -> Result<Vec<DeviceInfo>, OpenError> {
    let library = library().map_err(unavailable)?;
    let list = DeviceList::new(library)?;
    list.iter()
        .map(|device| {
            let opened = Opened::new(library, device)?;
            opened.describe()
        })
        .collect()
}

/// The address a queue pair uses if none is named: a routable IPv4 one, else any IPv6 one that is
/// not link-local, else link-local; RoCE v2 before v1. On InfiniBand, the first.
#[must_use]
pub fn choose_gid(port: &PortInfo) -> Option<&GidInfo> {
    port.gids.iter().max_by_key(|entry| {
        let scope = if entry.gid.to_ipv4_mapped().is_some() {
            2
        } else {
            u8::from(!entry.gid.is_unicast_link_local())
        };
        (entry.kind, scope, u8::MAX - entry.index)
    })
}

/// An open device with a protection domain, at one port and address.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) opened: Opened,
    pub(super) pd: *mut ibv_pd,
    pub(super) info: DeviceInfo,
    pub(super) attributes: ibv_device_attr,
    pub(super) port: PortInfo,
    pub(super) gid_index: u8,
    pub(super) gid: ibv_gid,
}

// SAFETY: libibverbs' objects may be used from any thread; every call on them is thread-safe.
unsafe impl Send for Device {}
// SAFETY: as above; the structure itself is not changed after its making.
unsafe impl Sync for Device {}

impl Device {
    pub(super) fn open(config: &VerbsConfig) -> Result<Arc<Self>, OpenError> {
        let library = library().map_err(unavailable)?;
        let list = DeviceList::new(library)?;
        let mut refused = Vec::new();
        for device in list.iter() {
            // SAFETY: the list is alive, so its devices are.
            let name = unsafe { device_name(device) };
            if config.device.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            // SAFETY: as above.
            if unsafe { (*device).transport_type } != IBV_TRANSPORT_IB {
                refused.push(format!("{name} is iWARP, which needs rdma_cm: not supported"));
                continue;
            }
            let opened = Opened::new(library, device)?;
            let info = opened.describe()?;
            match choose_port(&info, config) {
                Ok((port, gid)) => {
                    let (port, gid_index, gid) = (port.clone(), gid.index, gid.gid.octets());
                    return Self::with_domain(opened, info, port, gid_index, ibv_gid { raw: gid });
                }
                Err(reason) => refused.push(reason),
            }
        }
        let reason = match (&config.device, refused.is_empty()) {
            (Some(name), true) => format!("there is no verbs device named {name}"),
            (None, true) => "this host has no verbs device".into(),
            (_, false) => refused.join("; "),
        };
        Err(OpenError::Unavailable {
            provider: "verbs",
            reason,
            remedy: "see `windlass fabric list`, or make a software device with \
                     `windlass fabric up`"
                .into(),
        })
    }

    fn with_domain(
        opened: Opened,
        info: DeviceInfo,
        port: PortInfo,
        gid_index: u8,
        gid: ibv_gid,
    ) -> Result<Arc<Self>, OpenError> {
        let attributes = opened.attributes()?;
        // SAFETY: the context is open.
        let pd = unsafe { (opened.library.ibv_alloc_pd)(opened.context) };
        if pd.is_null() {
            return Err(failed("ibv_alloc_pd"));
        }
        Ok(Arc::new(Self { opened, pd, info, attributes, port, gid_index, gid }))
    }

    pub(super) fn library(&self) -> &'static Library {
        self.opened.library
    }

    pub(super) fn context(&self) -> *mut ibv_context {
        self.opened.context
    }

    /// What it is known to promise.
    pub(super) fn promises(&self) -> Promises {
        super::order::of_device(self.is_software())
    }

    /// Whether it has memory windows that belong to a queue pair: what a peer may write then opens to that
    /// peer alone.
    pub(super) fn has_windows(&self) -> bool {
        let kinds = IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B;
        self.attributes.max_mw > 0 && self.attributes.device_cap_flags & kinds != 0
    }

    /// A software device (SoftRoCE): the kernel does its work.
    pub(super) fn is_software(&self) -> bool {
        self.attributes.vendor_id == 0x00ff_ffff
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: regions, queues and queue pairs hold an Arc of this device, so none is left.
        let status = unsafe { (self.opened.library.ibv_dealloc_pd)(self.pd) };
        if status != 0 {
            tracing::warn!(status, device = self.info.name, "ibv_dealloc_pd failed");
        }
    }
}

/// An open device context.
#[derive(Debug)]
pub(super) struct Opened {
    library: &'static Library,
    context: *mut ibv_context,
    name: String,
}

impl Opened {
    fn new(library: &'static Library, device: *mut ibv_device) -> Result<Self, OpenError> {
        // SAFETY: the device comes from a list that is alive during this call.
        let context = unsafe { (library.ibv_open_device)(device) };
        if context.is_null() {
            return Err(failed("ibv_open_device"));
        }
        // SAFETY: as above.
        let name = unsafe { device_name(device) };
        Ok(Self { library, context, name })
    }

    fn attributes(&self) -> Result<ibv_device_attr, OpenError> {
        // SAFETY: an all-zero ibv_device_attr is valid: it has only integers.
        let mut attributes: ibv_device_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open and the structure is writable.
        let status = unsafe { (self.library.ibv_query_device)(self.context, &raw mut attributes) };
        if status == 0 { Ok(attributes) } else { Err(failed_with("ibv_query_device", status)) }
    }

    fn describe(&self) -> Result<DeviceInfo, OpenError> {
        let attributes = self.attributes()?;
        let ports = (1..=attributes.phys_port_cnt)
            .map(|number| self.describe_port(number))
            .collect::<Result<Vec<_>, _>>()?;
        let bytes = attributes.fw_ver.map(|byte| byte.cast_unsigned());
        let firmware = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
        Ok(DeviceInfo {
            name: self.name.clone(),
            firmware: firmware.to_string_lossy().into_owned(),
            // Kept in network byte order by the library.
            node_guid: u64::from_be(attributes.node_guid),
            vendor_id: attributes.vendor_id,
            atomics: attributes.atomic_cap != IBV_ATOMIC_NONE,
            queue_pairs_max: positive(attributes.max_qp),
            completions_max: positive(attributes.max_cqe),
            region_len_max: attributes.max_mr_size,
            ports,
        })
    }

    fn describe_port(&self, number: u8) -> Result<PortInfo, OpenError> {
        let mut attributes = ibv_port_attr::default();
        // SAFETY: the context is open and the structure is writable; the exported function fills
        // the older, shorter form of it, and the rest stays zero.
        let status =
            unsafe { (self.library.ibv_query_port)(self.context, number, &raw mut attributes) };
        if status != 0 {
            return Err(failed_with("ibv_query_port", status));
        }
        let link = match attributes.link_layer {
            IBV_LINK_LAYER_INFINIBAND => Link::InfiniBand,
            IBV_LINK_LAYER_ETHERNET => Link::Ethernet,
            _ => Link::Other,
        };
        let folder = PathBuf::from(format!("/sys/class/infiniband/{}/ports/{number}", self.name));
        let gids = (0..=u8::MAX)
            .take(usize::try_from(attributes.gid_tbl_len).unwrap_or(0))
            .filter_map(|index| self.gid(number, index).map(|gid| (index, gid)))
            .filter(|(_, gid)| !gid.is_unspecified())
            .filter_map(|(index, gid)| {
                let (kind, interface) = gid_attributes(&folder, index, link)?;
                Some(GidInfo { index, gid, kind, interface })
            })
            .collect();
        Ok(PortInfo {
            number,
            active: attributes.state == IBV_PORT_ACTIVE,
            state: port_state_name(attributes.state),
            link,
            active_mtu: mtu_bytes(attributes.active_mtu),
            max_mtu: mtu_bytes(attributes.max_mtu),
            lid: attributes.lid,
            message_len_max: attributes.max_msg_sz,
            gids,
        })
    }

    fn gid(&self, port: u8, index: u8) -> Option<Ipv6Addr> {
        let mut gid = ibv_gid::default();
        // SAFETY: the context is open and the structure is writable.
        let status = unsafe {
            (self.library.ibv_query_gid)(self.context, port, c_int::from(index), &raw mut gid)
        };
        (status == 0).then(|| Ipv6Addr::from(gid.raw))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once; everything made from it is gone by now.
        let status = unsafe { (self.library.ibv_close_device)(self.context) };
        if status != 0 {
            tracing::warn!(status, device = self.name, "ibv_close_device failed");
        }
    }
}

/// libibverbs' list of devices, freed with this value.
struct DeviceList {
    library: &'static Library,
    list: *mut *mut ibv_device,
    count: usize,
}

impl DeviceList {
    fn new(library: &'static Library) -> Result<Self, OpenError> {
        let mut count: c_int = 0;
        // SAFETY: the count is writable.
        let list = unsafe { (library.ibv_get_device_list)(&raw mut count) };
        if list.is_null() {
            let source = std::io::Error::last_os_error();
            if source.raw_os_error() == Some(libc::ENOSYS) {
                return Err(OpenError::Unavailable {
                    provider: "verbs",
                    reason: "the kernel has no RDMA support (ib_uverbs is not loaded)".into(),
                    remedy: "load the driver of your device, or `modprobe rdma_rxe` and then \
                             `windlass fabric up`"
                        .into(),
                });
            }
            return Err(OpenError::System {
                provider: "verbs",
                step: "ibv_get_device_list",
                source,
            });
        }
        Ok(Self { library, list, count: usize::try_from(count).unwrap_or(0) })
    }

    fn iter(&self) -> impl Iterator<Item = *mut ibv_device> {
        (0..self.count).map(|index| {
            // SAFETY: index < count, the length of the list, which is alive.
            unsafe { *self.list.add(index) }
        })
    }
}

impl Drop for DeviceList {
    fn drop(&mut self) {
        // SAFETY: the list comes from ibv_get_device_list; opened contexts outlive it by contract.
        unsafe { (self.library.ibv_free_device_list)(self.list) }
    }
}

/// # Safety
/// The device's list must be alive.
unsafe fn device_name(device: *mut ibv_device) -> String {
    // SAFETY: by contract the device is alive; its name is a zero-terminated array inside it.
    let name = unsafe { CStr::from_ptr((&raw const (*device).name).cast()) };
    name.to_string_lossy().into_owned()
}

fn choose_port<'a>(
    info: &'a DeviceInfo,
    config: &VerbsConfig,
) -> Result<(&'a PortInfo, GidInfo), String> {
    let name = &info.name;
    let mut candidates =
        info.ports.iter().filter(|port| config.port.is_none_or(|wanted| port.number == wanted));
    let port = match config.port {
        Some(number) => candidates.next().ok_or(format!("{name} has no port {number}"))?,
        None => candidates
            .find(|port| port.active)
            .ok_or(format!("no port of {name} is active (cable, switch or `ip link set up`)"))?,
    };
    if !port.active {
        return Err(format!("port {} of {name} is {}", port.number, port.state));
    }
    let chosen = match config.gid_index {
        Some(index) => port.gids.iter().find(|entry| entry.index == index),
        None => choose_gid(port),
    };
    match chosen {
        Some(gid) => Ok((port, gid.clone())),
        None if port.link == Link::InfiniBand && config.gid_index.is_none() => {
            let gid = Ipv6Addr::UNSPECIFIED;
            Ok((port, GidInfo { index: 0, gid, kind: GidKind::InfiniBand, interface: None }))
        }
        None => Err(format!(
            "port {} of {name} has no usable address{}: give its network interface an IP address",
            port.number,
            config.gid_index.map_or(String::new(), |index| format!(" at GID index {index}")),
        )),
    }
}

/// Kind and interface of one address, as sysfs tells them: libibverbs before version 33 cannot.
fn gid_attributes(port: &Path, index: u8, link: Link) -> Option<(GidKind, Option<String>)> {
    let read = |what: &str| {
        let path = port.join("gid_attrs").join(what).join(index.to_string());
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    };
    let interface = read("ndevs").filter(|name| !name.is_empty());
    let kind = match read("types").as_deref() {
        Some("RoCE v2") => GidKind::RoceV2,
        Some(_) if link == Link::Ethernet => GidKind::RoceV1,
        Some(_) => GidKind::InfiniBand,
        None if link == Link::Ethernet => return None,
        None => GidKind::InfiniBand,
    };
    Some((kind, interface))
}

const fn port_state_name(state: u32) -> &'static str {
    match state {
        1 => "DOWN",
        2 => "INIT",
        3 => "ARMED",
        IBV_PORT_ACTIVE => "ACTIVE",
        5 => "ACTIVE_DEFER",
        _ => "UNKNOWN",
    }
}

/// Bytes of an `enum ibv_mtu`; 0 for a value it does not have.
pub(super) const fn mtu_bytes(mtu: u32) -> u16 {
    if mtu < IBV_MTU_256 || mtu > IBV_MTU_4096 { 0 } else { 128 << mtu }
}

/// The `enum ibv_mtu` of the largest MTU that is not above `bytes`.
pub(super) const fn mtu_code(bytes: u16) -> u32 {
    let mut code = IBV_MTU_4096;
    while code > IBV_MTU_256 && mtu_bytes(code) > bytes {
        code -= 1;
    }
    code
}

/// A limit that C keeps as a signed integer.
pub(super) fn positive(limit: c_int) -> u32 {
    u32::try_from(limit).unwrap_or(0)
}

fn unavailable(error: LoadError) -> OpenError {
    OpenError::Unavailable {
        provider: "verbs",
        reason: error.to_string(),
        remedy: "until then shm and tcp are used".into(),
    }
}

/// A verb that failed and left its reason in errno.
pub(super) fn failed(step: &'static str) -> OpenError {
    OpenError::System { provider: "verbs", step, source: std::io::Error::last_os_error() }
}

fn failed_with(step: &'static str, status: c_int) -> OpenError {
    OpenError::System { provider: "verbs", step, source: verb_error(status) }
}

/// The reason of a verb that returned it: positive errno, or -1 with errno set.
pub(super) fn verb_error(status: c_int) -> std::io::Error {
    match status {
        -1 => std::io::Error::last_os_error(),
        _ => std::io::Error::from_raw_os_error(status.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u8, gid: &str, kind: GidKind) -> GidInfo {
        GidInfo { index, gid: gid.parse().unwrap(), kind, interface: None }
    }

    fn port(gids: Vec<GidInfo>) -> PortInfo {
        PortInfo {
            number: 1,
            active: true,
            state: "ACTIVE",
            link: Link::Ethernet,
            active_mtu: 1024,
            max_mtu: 4096,
            lid: 0,
            message_len_max: 1 << 23,
            gids,
        }
    }

    #[test]
    fn an_ipv4_address_over_roce_v2_is_preferred() {
        let port = port(vec![
            entry(0, "fe80::1", GidKind::RoceV1),
            entry(1, "fe80::1", GidKind::RoceV2),
            entry(2, "::ffff:10.0.0.1", GidKind::RoceV1),
            entry(3, "::ffff:10.0.0.1", GidKind::RoceV2),
            entry(4, "::ffff:10.0.0.2", GidKind::RoceV2),
        ]);
        assert_eq!(choose_gid(&port).map(|gid| gid.index), Some(3));
    }

    #[test]
    fn without_ipv4_a_global_address_is_preferred() {
        let port = port(vec![
            entry(0, "fe80::1", GidKind::RoceV2),
            entry(1, "2001:db8::1", GidKind::RoceV2),
        ]);
        assert_eq!(choose_gid(&port).map(|gid| gid.index), Some(1));
    }

    #[test]
    fn mtu_codes_and_bytes_agree() {
        for code in IBV_MTU_256..=IBV_MTU_4096 {
            assert_eq!(mtu_code(mtu_bytes(code)), code);
        }
        assert_eq!(mtu_code(1500), 3);
        assert_eq!(mtu_bytes(9), 0);
    }
}
