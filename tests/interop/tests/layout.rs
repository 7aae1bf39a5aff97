//! Our declarations of libibverbs' structures against three others: the C compiler's reading of
//! the installed headers, the `rdma-sys` crate's and the `ibverbs` crate's.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    mem::{offset_of, size_of},
    process::Command,
};

use windlass_transport::verbs::abi;

type Layout = BTreeMap<String, usize>;

/// Every structure and field that the product declares, but for the list after it.
macro_rules! structures {
    ($visit:ident) => {
        $visit! {
            complete ibv_device { node_type, transport_type, name, dev_name, dev_path, ibdev_path }
            complete ibv_context_ops {
                alloc_mw, dealloc_mw, poll_cq, req_notify_cq, post_srq_recv, post_send, post_recv
            }
            prefix ibv_context { device, ops, cmd_fd, async_fd, num_comp_vectors }
            complete ibv_pd { context, handle }
            complete ibv_mr { context, pd, addr, length, handle, lkey, rkey }
            complete ibv_mw { context, pd, rkey, handle }
            complete ibv_mw_bind_info { mr, addr, length, mw_access_flags }
            complete ibv_comp_channel { context, fd, refcnt }
            prefix ibv_cq { context, channel, cq_context, handle, cqe }
            prefix ibv_qp {
                context, qp_context, pd, send_cq, recv_cq, srq, handle, qp_num, state, qp_type
            }
            complete ibv_device_attr {
                fw_ver, node_guid, sys_image_guid, max_mr_size, page_size_cap, vendor_id,
                vendor_part_id, hw_ver, max_qp, max_qp_wr, device_cap_flags, max_sge, max_sge_rd,
                max_cq, max_cqe, max_mr, max_pd, max_qp_rd_atom, max_ee_rd_atom, max_res_rd_atom,
                max_qp_init_rd_atom, max_ee_init_rd_atom, atomic_cap, max_ee, max_rdd, max_mw,
                max_raw_ipv6_qp, max_raw_ethy_qp, max_mcast_grp, max_mcast_qp_attach,
                max_total_mcast_qp_attach, max_ah, max_fmr, max_map_per_fmr, max_srq, max_srq_wr,
                max_srq_sge, max_pkeys, local_ca_ack_delay, phys_port_cnt
            }
            complete ibv_port_attr {
                state, max_mtu, active_mtu, gid_tbl_len, port_cap_flags, max_msg_sz, bad_pkey_cntr,
                qkey_viol_cntr, pkey_tbl_len, lid, sm_lid, lmc, max_vl_num, sm_sl, subnet_timeout,
                init_type_reply, active_width, active_speed, phys_state, link_layer, flags
            }
            complete ibv_qp_cap {
                max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data
            }
            complete ibv_qp_init_attr { qp_context, send_cq, recv_cq, srq, cap, qp_type, sq_sig_all }
            complete ibv_global_route { dgid, flow_label, sgid_index, hop_limit, traffic_class }
            complete ibv_ah_attr { grh, dlid, sl, src_path_bits, static_rate, is_global, port_num }
            complete ibv_qp_attr {
                qp_state, cur_qp_state, path_mtu, path_mig_state, qkey, rq_psn, sq_psn, dest_qp_num,
                qp_access_flags, cap, ah_attr, alt_ah_attr, pkey_index, alt_pkey_index,
                en_sqd_async_notify, sq_draining, max_rd_atomic, max_dest_rd_atomic, min_rnr_timer,
                port_num, timeout, retry_cnt, rnr_retry, alt_port_num, alt_timeout, rate_limit
            }
            complete ibv_sge { addr, length, lkey }
            complete ibv_send_wr { wr_id, next, sg_list, num_sge, opcode, send_flags, wr }
            complete ibv_recv_wr { wr_id, next, sg_list, num_sge }
            complete ibv_wc {
                qp_num, src_qp, wc_flags, pkey_index, slid, sl, dlid_path_bits
            }
            complete ibv_async_event { element, event_type }
        }
    };
}

/// Fields that the `ibverbs` crate keeps private: the public ones behind them fix their places.
macro_rules! private_structures {
    ($visit:ident) => {
        $visit! { prefix ibv_wc { wr_id, status, opcode, vendor_err, byte_len } }
    };
}

macro_rules! ours {
    ($($kind:ident $name:ident { $($field:ident),* })*) => {{
        let mut layout = Layout::new();
        $(
            insert_size(&mut layout, stringify!($kind), stringify!($name), size_of::<abi::$name>());
            $(layout.insert(
                concat!(stringify!($name), ".", stringify!($field)).to_owned(),
                offset_of!(abi::$name, $field),
            );)*
        )*
        layout
    }};
}

macro_rules! theirs {
    ($($kind:ident $name:ident { $($field:ident),* })*) => {{
        let mut layout = Layout::new();
        $(
            insert_size(&mut layout, stringify!($kind), stringify!($name), size_of::<peer::$name>());
            $(layout.insert(
                concat!(stringify!($name), ".", stringify!($field)).to_owned(),
                offset_of!(peer::$name, $field),
            );)*
        )*
        layout
    }};
}

macro_rules! c_program {
    ($($kind:ident $name:ident { $($field:ident),* })*) => {{
        let mut body = String::new();
        $(
            if stringify!($kind) == "complete" {
                writeln!(body, "P(\"{0}\", sizeof(struct {0}));", stringify!($name)).unwrap();
            }
            $(writeln!(
                body,
                "P(\"{0}.{1}\", offsetof(struct {0}, {1}));",
                stringify!($name),
                stringify!($field)
            ).unwrap();)*
        )*
        body
    }};
}

/// A structure that the library allocates is declared only as far as it is read: its size differs.
fn insert_size(layout: &mut Layout, kind: &str, name: &str, size: usize) {
    if kind == "complete" {
        layout.insert(name.to_owned(), size);
    }
}

fn differences(ours: &Layout, theirs: &Layout) -> Vec<String> {
    assert_eq!(ours.len(), theirs.len());
    ours.iter()
        .filter(|(name, value)| theirs.get(*name) != Some(value))
        .map(|(name, value)| format!("{name}: ours {value}, theirs {:?}", theirs.get(name)))
        .collect()
}

#[test]
fn layouts_agree_with_the_c_headers() {
    let folder = std::env::temp_dir().join(format!("windlass-layout-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("layout.c");
    let program = folder.join("layout");
    let body = structures!(c_program) + &private_structures!(c_program);
    // Members of anonymous unions, whose names the crates have to invent.
    let unions = "P(\"ibv_send_wr.imm_data\", offsetof(struct ibv_send_wr, imm_data));\n\
                  P(\"ibv_wc.imm_data\", offsetof(struct ibv_wc, imm_data));\n\
                  P(\"ibv_gid\", sizeof(union ibv_gid));\n\
                  P(\"rdma.rkey\", offsetof(struct ibv_send_wr, wr.rdma.rkey));\n\
                  P(\"atomic.compare_add\", offsetof(struct ibv_send_wr, wr.atomic.compare_add));\n\
                  P(\"atomic.swap\", offsetof(struct ibv_send_wr, wr.atomic.swap));\n\
                  P(\"atomic.rkey\", offsetof(struct ibv_send_wr, wr.atomic.rkey));\n";
    let text = format!(
        "#include <infiniband/verbs.h>\n#include <stddef.h>\n#include <stdio.h>\n\
         #define P(n, v) printf(\"%s %zu\\n\", n, (size_t)(v))\n\
         int main(void) {{\n{body}{unions}return 0; }}\n"
    );
    std::fs::write(&source, text).unwrap();
    let compiled = Command::new("cc").arg(&source).arg("-o").arg(&program).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&program).output().unwrap().stdout;
    let mut theirs: Layout = String::from_utf8(output)
        .unwrap()
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect();
    std::fs::remove_dir_all(&folder).unwrap();

    let wr = offset_of!(abi::ibv_send_wr, wr);
    let expected = [
        ("ibv_send_wr.imm_data", offset_of!(abi::ibv_send_wr, imm_data)),
        ("ibv_wc.imm_data", offset_of!(abi::ibv_wc, imm_data)),
        ("ibv_gid", size_of::<abi::ibv_gid>()),
        ("rdma.rkey", wr + offset_of!(abi::ibv_send_wr_rdma, rkey)),
        ("atomic.compare_add", wr + offset_of!(abi::ibv_send_wr_atomic, compare_add)),
        ("atomic.swap", wr + offset_of!(abi::ibv_send_wr_atomic, swap)),
        ("atomic.rkey", wr + offset_of!(abi::ibv_send_wr_atomic, rkey)),
    ];
    for (name, ours) in expected {
        assert_eq!(theirs.remove(name), Some(ours), "{name}");
    }
    let mut ours = structures!(ours);
    ours.extend(private_structures!(ours));
    assert_eq!(differences(&ours, &theirs), Vec::<String>::new());
}

#[test]
fn layouts_agree_with_the_rdma_sys_crate() {
    use rdma_sys as peer;
    let (mut ours, mut theirs) = (structures!(ours), structures!(theirs));
    ours.extend(private_structures!(ours));
    theirs.extend(private_structures!(theirs));
    let found = differences(&ours, &theirs);
    assert!(found.iter().all(|line| line.starts_with("ibv_port_attr:")), "{found:#?}");
}

#[test]
fn layouts_agree_with_the_ibverbs_crate() {
    use ibverbs_sys as peer;
    let found = differences(&structures!(ours), &structures!(theirs));
    assert!(found.iter().all(|line| line.starts_with("ibv_port_attr:")), "{found:#?}");
}
