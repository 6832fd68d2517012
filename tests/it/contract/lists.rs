//! Lists: pages, selectors, metadata alone, and tokens that expire.

use serde_json::{Value, json};

use super::api::Api;
use super::objects::map;

/// Five maps, the odd ones labelled; the label keeps what every namespace has out of lists.
async fn fill(api: &Api) {
    for n in 0..5 {
        let mut object = map(&format!("m{n}"), "1");
        object["metadata"]["labels"] = json!({"case": "yes", "parity": if n % 2 == 0 { "even" } else { "odd" }});
        let made = api.ask("POST", &api.core("configmaps"), &object).await;
        assert_eq!(made.code, 201);
    }
}

fn names(list: &Value) -> String {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<_> = items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    names.join(" ")
}

pub async fn a_list_is_whole(api: &Api) {
    fill(api).await;
    api.get(&format!("{}?labelSelector=case%3Dyes", api.core("configmaps"))).await;
}

pub async fn an_empty_list_has_a_version(api: &Api) {
    api.get(&api.core("services")).await;
    api.get(&api.apis("apps", "statefulsets")).await;
}

pub async fn a_list_is_read_in_pages(api: &Api) {
    fill(api).await;
    let path = format!("{}?limit=2&labelSelector=case", api.core("configmaps"));
    let first = api.get(&path).await;
    let second = api.get(&format!("{path}&continue={}", first.text("/metadata/continue"))).await;
    // What is made meanwhile is not of this list.
    let mut later = map("m9", "1");
    later["metadata"]["labels"] = json!({"case": "yes"});
    api.ask("POST", &api.core("configmaps"), &later).await;
    let third = api.get(&format!("{path}&continue={}", second.text("/metadata/continue"))).await;
    let version = |page: &super::api::Answer| page.text("/metadata/resourceVersion").to_owned();
    api.note(&format!("{}", version(&first) == version(&third)));
}

pub async fn pages_say_how_many_are_left(api: &Api) {
    for n in 0..3 {
        let secret = json!({"metadata": {"name": format!("s{n}")}});
        api.ask("POST", &api.core("secrets"), &secret).await;
    }
    let first = api.ask("GET", &format!("{}?limit=2", api.core("secrets")), &Value::Null).await;
    api.note_value("metadata", &first.body["metadata"]);
    api.note(&names(&first.body));
}

pub async fn lists_are_of_one_namespace_or_of_all(api: &Api) {
    fill(api).await;
    let all = api.ask("GET", "/api/v1/configmaps?labelSelector=case%3Dyes,parity%3Dodd", &Value::Null).await;
    let items = all.body["items"].as_array().expect("a list");
    let ours = items.iter().filter(|item| item["metadata"]["namespace"] == api.ns.as_str()).count();
    api.note(&format!("{} {ours} {}", all.code, all.text("/kind")));
}

pub async fn labels_select(api: &Api) {
    fill(api).await;
    for selector in
        ["parity=odd", "parity%21%3Dodd,case", "parity%20in%20(even,x)", "parity%20notin%20(even),case%3Dyes", "%21case", "nothing"]
    {
        let path = format!("{}?labelSelector={selector}&fieldSelector=metadata.name%21%3Dkube-root-ca.crt", api.core("configmaps"));
        let list = api.ask("GET", &path, &Value::Null).await;
        api.note(&format!("{selector}: {} {}", list.code, names(&list.body)));
    }
    let refused = api.ask("GET", &format!("{}?labelSelector=a%3D%3D%3Db%20c", api.core("configmaps")), &Value::Null).await;
    api.note(&format!("{} {}", refused.code, refused.text("/reason")));
}

pub async fn fields_select(api: &Api) {
    fill(api).await;
    let maps = api.core("configmaps");
    api.get(&format!("{maps}?fieldSelector=metadata.name%3Dm1")).await;
    api.get(&format!("{maps}?fieldSelector=data.value%3D1")).await;
    let secret = json!({"metadata": {"name": "typed"}, "type": "example.org/type"});
    api.ask("POST", &api.core("secrets"), &secret).await;
    let list = api.ask("GET", &format!("{}?fieldSelector=type%3Dexample.org/type", api.core("secrets")), &Value::Null).await;
    api.note(&names(&list.body));
    api.get(&format!("{}?fieldSelector=metadata.nothing%3Dx", api.core("secrets"))).await;
}

pub async fn metadata_alone_is_listed(api: &Api) {
    fill(api).await;
    let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
    let path = format!("{}?labelSelector=parity%3Dodd", api.core("configmaps"));
    let list = api.ask_raw("GET", &path, &[("accept", accept)], Vec::new()).await;
    api.write_answer("GET", &path, &list);
}

pub async fn a_token_that_is_none_is_refused(api: &Api) {
    fill(api).await;
    let refused = api.ask("GET", &format!("{}?limit=2&continue=nonsense", api.core("configmaps")), &Value::Null).await;
    api.note(&format!("{} {}", refused.code, refused.text("/reason")));
}

pub async fn a_list_of_one_state_is_of_that_one(api: &Api) {
    fill(api).await;
    let path = format!("{}?labelSelector=case", api.core("configmaps"));
    let before = api.get(&path).await;
    api.ask("DELETE", &format!("{}/m1", api.core("configmaps")), &Value::Null).await;
    api.ask("PATCH", &format!("{}/m4", api.core("configmaps")), &json!({"data": {"value": "2"}})).await;
    let at = format!("resourceVersion={}&resourceVersionMatch=Exact", before.text("/metadata/resourceVersion"));
    let same = api.ask("GET", &format!("{path}&{at}"), &Value::Null).await;
    api.note(&format!("{}", same.body == before.body));
    // Its pages go on with it.
    let first = api.ask("GET", &format!("{path}&limit=2&{at}"), &Value::Null).await;
    let second =
        api.ask("GET", &format!("{path}&limit=5&continue={}", first.text("/metadata/continue")), &Value::Null).await;
    api.note(&format!("{} | {}", names(&first.body), names(&second.body)));
}

pub async fn a_token_that_expired_says_how_to_go_on(api: &Api) {
    fill(api).await;
    let path = format!("{}?limit=2&labelSelector=case", api.core("configmaps"));
    let first = api.get(&path).await;
    api.ask("PATCH", &format!("{}/m4", api.core("configmaps")), &json!({"data": {"value": "2"}})).await;
    api.forget_history().await;
    let expired = api.get(&format!("{path}&continue={}", first.text("/metadata/continue"))).await;
    let rest = api.get(&format!("{path}&continue={}", expired.text("/metadata/continue"))).await;
    api.note(&names(&rest.body));
}
