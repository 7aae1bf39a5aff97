//! RDMA verbs semantics over InfiniBand, RoCE, shared memory and TCP.
