//! Containers on a paused clock: which container an input takes, and how it is billed.

use super::*;

const WINDOW: Duration = Duration::from_secs(60);

const COLD: Duration = Duration::from_secs(4);
const LEASE: Duration = Duration::from_secs(600);

fn containers(most: usize) -> (Arc<Containers>, Arc<Book>) {
    let book = Arc::new(Book::default());
    let (window, cold_start) = (WINDOW, COLD);
    let sort = Sort { most, window, cold_start, sku: "T4".to_owned(), price_per_second_nanos: 164_000 };
    (Containers::new(sort, Arc::clone(&book)), book)
}

/// Starts for the floor and idle time, in seconds.
fn standing(containers: &Containers, book: &Book) -> (u64, u64) {
    containers.reap_due();
    let usage = book.usage();
    usage.first().map_or((0, 0), |gpu| (gpu.warm_start_us / 1_000_000, gpu.idle_us / 1_000_000))
}

#[tokio::test(start_paused = true)]
async fn the_last_idle_container_is_taken_first_and_its_wait_is_billed() {
    let (containers, book) = containers(2);
    let (first, second) = (containers.take().await, containers.take().await);
    assert!(first.cold && second.cold && first.id != second.id);
    let last = second.id.clone();
    drop(first);
    drop(second);
    time::advance(Duration::from_micros(1_234_567)).await;
    let warm = containers.take().await;
    assert_eq!((warm.cold, &warm.id), (false, &last));
    assert_eq!(book.usage()[0].idle_us, 1_234_567);
}

#[tokio::test(start_paused = true)]
async fn an_idle_container_scales_down_after_exactly_the_window() {
    let (containers, book) = containers(1);
    drop(containers.take().await);
    time::advance(WINDOW * 3).await;
    assert_eq!(containers.count(), 0);
    assert_eq!(book.usage()[0].idle_us, 60_000_000);
    assert!(containers.take().await.cold);
}

#[tokio::test(start_paused = true)]
async fn the_reaper_closes_spans_without_any_traffic() {
    let (containers, book) = containers(1);
    let shutdown = CancellationToken::new();
    let reaper = Arc::clone(&containers).run_reaper(shutdown.clone());
    let traffic = async {
        drop(containers.take().await);
        time::sleep(WINDOW * 2).await;
        shutdown.cancel();
    };
    tokio::join!(reaper, traffic);
    assert_eq!(book.usage()[0].idle_us, 60_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_dead_container_is_replaced_and_has_no_idle_time() {
    let (containers, book) = containers(1);
    let mut container = containers.take().await;
    container.kill();
    drop(container);
    assert!(containers.take().await.cold);
    assert!(book.usage().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_floor_counts_what_is_up_and_starts_the_rest_for_nobody() {
    let (containers, book) = containers(4);
    let busy = containers.take().await;
    for _ in 0..3 {
        containers.keep(3, LEASE);
    }
    assert_eq!(containers.count(), 3);
    assert_eq!(standing(&containers, &book), (0, 0), "a start is billed when it is over");
    time::advance(COLD).await;
    assert_eq!(standing(&containers, &book), (8, 0));
    assert_eq!(containers.counts(), (1, 2));
    let warm = containers.take().await;
    assert!(!warm.cold);
    drop((busy, warm));
    assert_eq!(containers.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_the_floor_holds_stays_beyond_the_window_and_goes_with_the_floor() {
    let (containers, book) = containers(4);
    containers.keep(2, LEASE);
    drop(containers.take().await);
    time::advance(COLD + WINDOW * 2).await;
    assert_eq!(standing(&containers, &book), (8, 240), "what it holds open is billed so far");
    containers.keep(1, LEASE);
    assert_eq!((containers.count(), standing(&containers, &book)), (1, (8, 240)));
    time::advance(LEASE * 9 / 10).await;
    assert_eq!(containers.count(), 1, "an order holds until its lease is over");
    time::advance(WINDOW).await;
    assert_eq!(containers.count(), 0);
    assert_eq!(standing(&containers, &book), (8, 840), "to the moment at which nobody repeated the order");
}

#[tokio::test(start_paused = true)]
async fn an_input_waits_only_for_the_rest_of_a_start_that_is_under_way() {
    let (containers, book) = containers(1);
    containers.keep(1, LEASE);
    time::advance(Duration::from_secs(1)).await;
    let mut container = containers.take().await;
    let gave_up = time::timeout(Duration::from_secs(1), container.up()).await;
    assert!(gave_up.is_err() && !container.cold);
    drop(container);
    let mut container = containers.take().await;
    let before = Instant::now();
    container.up().await;
    assert_eq!(before.elapsed(), Duration::from_secs(2), "the start went on meanwhile");
    drop(container);
    assert_eq!(standing(&containers, &book), (4, 0), "one start, billed once");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_dies_under_the_floor_is_replaced() {
    let (containers, book) = containers(1);
    containers.keep(1, LEASE);
    let mut container = containers.take().await;
    container.up().await;
    container.kill();
    drop(container);
    assert_eq!(containers.count(), 1);
    time::advance(COLD).await;
    assert_eq!(standing(&containers, &book), (8, 0));
}

#[tokio::test(start_paused = true)]
async fn the_reaper_ends_a_floor_without_any_traffic() {
    let (containers, book) = containers(1);
    let shutdown = CancellationToken::new();
    let reaper = Arc::clone(&containers).run_reaper(shutdown.clone());
    let traffic = async {
        containers.keep(1, WINDOW * 3);
        time::sleep(WINDOW * 4).await;
        shutdown.cancel();
    };
    tokio::join!(reaper, traffic);
    assert_eq!((book.usage()[0].warm_start_us, book.usage()[0].idle_us), (4_000_000, 176_000_000));
}
